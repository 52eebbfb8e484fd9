"""What the rows of `prunella bench heal` say: a student's way from pruned to healed, as a table."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from prunella.bench.evidence import Row
from prunella.bench.healing import TEACHER
from prunella.stats import Estimate, bootstrap_interval

HEAD = ["student", "steps", "seeds", "output error", "KID", "composition", "of the teacher's"]


def share_of(students: Sequence[str], teachers: Sequence[str]) -> Estimate:
    """A student's composition as a share of the teacher's, with its interval; verdicts as "0110…", prompt by prompt.

    `students` are the verdicts of its seeds, `teachers` those of the teacher beside each: the same prompts, drawn on
    the same machine. Prompts are resampled, and with each all that was drawn of it, so what seeds have in common is
    not counted twice.
    """
    ours, theirs = (np.array([[mark == "1" for mark in each] for each in of]).mean(0) for of in (students, teachers))

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.mean(axis) / b.mean(axis)

    value = float(ratio(ours, theirs))
    if not ours.any():
        return Estimate(value, len(theirs), value, value)
    return Estimate(value, len(theirs), *bootstrap_interval(ratio, ours, theirs))


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Cells, the head first: the teacher, then each student by steps, over its seeds.

    Rows of other settings, as of pairs encoded on another machine, have the teacher's row of those settings.
    """
    teachers = {row["settings"]: row for row in rows if row["student"] == TEACHER}
    shown = next(iter(teachers.values()))
    first = [TEACHER, "", "", "0", f"{shown['kid']['value']:.4f}", _estimate(Estimate(**shown["composition"])), "1"]
    ours = sorted((row for row in rows if row["student"] != TEACHER), key=_place)
    return [HEAD, first, *(_line(list(some), teachers) for _, some in groupby(ours, _place))]


def _place(row: Row) -> tuple[str, int]:
    return row["student"], row["step"]


def _line(rows: list[Row], teachers: dict[str, Row]) -> list[str]:
    drawn = [row for row in rows if "verdicts" in row]
    cells = [rows[0]["student"], f"{rows[0]['step']:,}", str(len(rows)), _span([row["output"] for row in rows], 4)]
    if not drawn:
        return [*cells, "", "", ""]
    right = "".join(row["verdicts"] for row in drawn).count("1") / sum(len(row["verdicts"]) for row in drawn)
    whole = share_of([row["verdicts"] for row in drawn], [teachers[row["settings"]]["verdicts"] for row in drawn])
    return [*cells, _span([row["kid"]["value"] for row in drawn], 3), f"{right:.3f}", _estimate(whole)]


def _span(values: list[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low}–{high}"


def _estimate(found: Estimate) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
