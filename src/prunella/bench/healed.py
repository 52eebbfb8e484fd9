"""Summary of the rows of `prunella bench heal`: a student's way from pruned to healed, as a table."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from prunella.bench.evidence import EvidenceRow
from prunella.bench.healing import TEACHER
from prunella.stats import Estimate, bootstrap_interval

HEALING_COLUMNS = ["student", "steps", "seeds", "output error", "KID", "composition", "of the teacher's"]


def estimate_fraction_of_teacher(student_verdicts: Sequence[str], teacher_verdicts: Sequence[str]) -> Estimate:
    """A student's composition as a share of the teacher's, with its interval; verdicts as "0110…", prompt by prompt.

    `students` are the verdicts of its seeds, `teachers` those of the teacher beside each: the same prompts, drawn on
    the same machine. Prompts are resampled, and with each all that was drawn of it, so what seeds have in common is
    not counted twice.
    """
    student_scores, teacher_scores = (
        np.array([[mark == "1" for mark in verdicts] for verdicts in verdict_lists]).mean(0)
        for verdict_lists in (student_verdicts, teacher_verdicts)
    )

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) / b.mean(axis)

    value = float(ratio(student_scores, teacher_scores))
    if not student_scores.any():
        return Estimate(value, len(teacher_scores), value, value)
    return Estimate(value, len(teacher_scores), *bootstrap_interval(ratio, student_scores, teacher_scores))


def build_healing_table(rows: Sequence[EvidenceRow]) -> list[list[str]]:
    """Cells, the head first: the teacher, then each student by steps, over its seeds.

    Rows of other settings, as of pairs encoded on another machine, have the teacher's row of those settings.
    """
    teacher_rows = {row["settings"]: row for row in rows if row["student"] == TEACHER}
    teacher_row = next(iter(teacher_rows.values()))
    teacher_cells = [
        TEACHER,
        "",
        "",
        "0",
        f"{teacher_row['kid']['value']:.4f}",
        _format_two_digit_estimate(Estimate(**teacher_row["composition"])),
        "1",
    ]
    student_rows = sorted((row for row in rows if row["student"] != TEACHER), key=_student_and_step)
    return [
        HEALING_COLUMNS,
        teacher_cells,
        *(_build_healing_row(list(group), teacher_rows) for _, group in groupby(student_rows, _student_and_step)),
    ]


def _student_and_step(row: EvidenceRow) -> tuple[str, int]:
    return row["student"], row["step"]


def _build_healing_row(rows: list[EvidenceRow], teacher_rows: dict[str, EvidenceRow]) -> list[str]:
    rows_with_images = [row for row in rows if "verdicts" in row]
    cells = [
        rows[0]["student"],
        f"{rows[0]['step']:,}",
        str(len(rows)),
        _format_digit_range([row["output"] for row in rows], 4),
    ]
    if not rows_with_images:
        return [*cells, "", "", ""]
    composition = "".join(row["verdicts"] for row in rows_with_images).count("1") / sum(
        len(row["verdicts"]) for row in rows_with_images
    )
    fraction_of_teacher = estimate_fraction_of_teacher(
        [row["verdicts"] for row in rows_with_images],
        [teacher_rows[row["settings"]]["verdicts"] for row in rows_with_images],
    )
    return [
        *cells,
        _format_digit_range([row["kid"]["value"] for row in rows_with_images], 3),
        f"{composition:.3f}",
        _format_two_digit_estimate(fraction_of_teacher),
    ]


def _format_digit_range(values: list[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}–{high}"


def _format_two_digit_estimate(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"
