"""Figures that others have published, beside this run's own (`published.yaml`)."""

from functools import cache
from pathlib import Path
from typing import Any

from prunella.pruning.plan import SHIPPED_PLANS, Plan, read_plan
from prunella.reporting import labels
from prunella.reporting.findings import list_measured_stages, list_report_students
from prunella.reporting.summary import EMPTY, format_estimate, get_estimate
from prunella.storage.files import read_yaml

PUBLISHED_FILE = Path(__file__).with_suffix(".yaml")
QUALITY_METRICS = ("fid", "inception_score", "clip_score")
Report = dict[str, Any]


@cache
def read_published_figures() -> dict[str, Any]:
    """Everything in `published.yaml`."""
    return read_yaml(PUBLISHED_FILE)


def compare_published_sizes(report: Report) -> list[dict[str, Any]]:
    """{"model", "theirs", "ours"}: the UNet's size as published, and as counted here, for the run's architectures."""
    rows, teacher = (
        _select_rows(read_published_figures()["quality"]["rows"], report),
        report["models"]["teacher"]["params"],
    )
    comparisons = []
    for row in rows:
        own_sizes = [
            f"{name}: {100 * _get_student_costs(report, name)['params'] / teacher:.0f} %"
            for name in _list_row_students(row, report)
        ]
        teacher_row = next(
            candidate for candidate in rows if candidate["family"] == row["family"] and not candidate["students"]
        )
        fraction = float(row["unet"].split()[0]) / float(teacher_row["unet"].split()[0])
        published_size = (
            row["unet"] if row is teacher_row else f"{row['unet']}, {100 * fraction:.0f} % of {teacher_row['unet']}"
        )
        comparisons.append({"model": row["model"], "theirs": published_size, "ours": ", ".join(own_sizes) or EMPTY})
    published_students = {name for row in rows for name in row["students"]}
    return comparisons + [
        _size_from_plan(report, name)
        for name in list_report_students(report)
        if name not in published_students and name in _load_shipped_plans()
    ]


def _size_from_plan(report: Report, student: str) -> dict[str, Any]:
    """The same of a student whose makers' figure is in its plan alone."""
    plan, teacher = _load_shipped_plans()[student], report["models"]["teacher"]["params"]
    size_text = f"{student}: {100 * _get_student_costs(report, student)['params'] / teacher:.0f} %"
    return {"model": plan.title, "theirs": "; ".join(plan.published.values()) or EMPTY, "ours": size_text}


@cache
def _load_shipped_plans() -> dict[str, Plan]:
    """The shipped plans by name; a user's own have no published figures."""
    return {path.stem: read_plan(path) for path in SHIPPED_PLANS.glob("*.yaml")}


def compare_published_speeds(report: Report) -> list[dict[str, Any]]:
    """{"model", "figure", "times", "setting", "source", "url", "ours"}: published speeds, and ours as a ratio."""
    comparisons = []
    for row in _select_rows(read_published_figures()["speed"], report):
        own_speeds = [f"{name}: {_format_speedup(report, name)}" for name in _list_row_students(row, report)]
        comparisons.append(row | {"times": f"{row['times']:.2f} ×", "ours": ", ".join(own_speeds) or EMPTY})
    return comparisons


def build_published_quality_table(report: Report) -> list[list[str]]:
    """Table cells, the head first: published FID, Inception and CLIP score; ours under them, of the same protocol."""
    rows = _select_rows(read_published_figures()["quality"]["rows"], report)
    if not rows:
        return []
    table = [
        ["model", *map(labels.label_metric, QUALITY_METRICS)],
        *([row["model"], *(f"{row[key]}" for key in QUALITY_METRICS)] for row in rows),
    ]
    return table + (_build_own_quality_rows(report) if report["settings"].get("protocol") == "bk-sdm" else [])


def _build_own_quality_rows(report: Report) -> list[list[str]]:
    lines = [
        [f"ours: {labels.label_model(name)}", *(format_estimate(get_estimate(entry, key)) for key in QUALITY_METRICS)]
        for name, entry in report["models"].items()
    ]
    return [line for line in lines if set(line[1:]) != {EMPTY}]


def _select_rows(rows: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """The rows of the run's students, each family with its teacher; a student's family is its teacher's row's."""
    family, rows_with_family = "", []
    for row in rows:
        family = row.get("family", family)
        rows_with_family.append(row | {"family": family})
    families = {row["family"] for row in rows_with_family if _list_row_students(row, report)}
    return [
        row
        for row in rows_with_family
        if row["family"] in families and (not row["students"] or _list_row_students(row, report))
    ]


def _list_row_students(row: dict[str, Any], report: Report) -> list[str]:
    return [name for name in list_report_students(report) if name in row["students"]]


def _get_student_costs(report: Report, student: str) -> dict[str, Any]:
    return report["models"][f"{student}/{list_measured_stages(report, student)[0]}"]


def _format_speedup(report: Report, student: str) -> str:
    student_costs, teacher_costs = _get_student_costs(report, student), report["models"]["teacher"]
    if speedup := student_costs.get("speedup"):
        return f"{format_estimate(speedup)} ×"
    return f"{teacher_costs['latency_ms_p50'] / student_costs['latency_ms_p50']:.2f} ×"
