"""Figures that others have published, beside this run's own (`published.yaml`)."""

from functools import cache
from pathlib import Path
from typing import Any

from prunella.pruning.plan import CATALOGUE, Plan, read_plan
from prunella.reporting import labels
from prunella.reporting.findings import stages, students
from prunella.reporting.summary import EMPTY, estimate, quality
from prunella.storage.files import read_yaml

FILE = Path(__file__).with_suffix(".yaml")
QUALITY = ("fid", "inception_score", "clip_score")
Report = dict[str, Any]


@cache
def published() -> dict[str, Any]:
    """Everything in `published.yaml`."""
    return read_yaml(FILE)


def sizes(report: Report) -> list[dict[str, Any]]:
    """{"model", "theirs", "ours"}: the UNet's size as published, and as counted here, for the run's architectures."""
    rows, teacher = _shown(published()["quality"]["rows"], report), report["models"]["teacher"]["params"]
    found = []
    for row in rows:
        own = [f"{name}: {100 * _own(report, name)['params'] / teacher:.0f} %" for name in _ours(row, report)]
        whole = next(each for each in rows if each["family"] == row["family"] and not each["students"])
        share = float(row["unet"].split()[0]) / float(whole["unet"].split()[0])
        theirs = row["unet"] if row is whole else f"{row['unet']}, {100 * share:.0f} % of {whole['unet']}"
        found.append({"model": row["model"], "theirs": theirs, "ours": ", ".join(own) or EMPTY})
    named = {name for row in rows for name in row["students"]}
    return found + [_stated(report, name) for name in students(report) if name not in named and name in _plans()]


def _stated(report: Report, student: str) -> dict[str, Any]:
    """The same of a student whose makers' figure is in its plan alone."""
    plan, teacher = _plans()[student], report["models"]["teacher"]["params"]
    share = f"{student}: {100 * _own(report, student)['params'] / teacher:.0f} %"
    return {"model": plan.title, "theirs": "; ".join(plan.published.values()) or EMPTY, "ours": share}


@cache
def _plans() -> dict[str, Plan]:
    """The shipped plans by name; a user's own have no published figures."""
    return {path.stem: read_plan(path) for path in CATALOGUE.glob("*.yaml")}


def speeds(report: Report) -> list[dict[str, Any]]:
    """{"model", "figure", "times", "setting", "source", "url", "ours"}: published speeds, and ours as a ratio."""
    found = []
    for row in _shown(published()["speed"], report):
        own = [f"{name}: {_times(report, name)}" for name in _ours(row, report)]
        found.append(row | {"times": f"{row['times']:.2f} ×", "ours": ", ".join(own) or EMPTY})
    return found


def qualities(report: Report) -> list[list[str]]:
    """Table cells, the head first: published FID, Inception and CLIP score; ours under them, of the same protocol."""
    rows = _shown(published()["quality"]["rows"], report)
    if not rows:
        return []
    table = [
        ["model", *map(labels.title, QUALITY)],
        *([row["model"], *(f"{row[key]}" for key in QUALITY)] for row in rows),
    ]
    return table + (_measured(report) if report["settings"].get("protocol") == "bk-sdm" else [])


def _measured(report: Report) -> list[list[str]]:
    lines = [
        [f"ours: {labels.model(name)}", *(estimate(quality(e, key)) for key in QUALITY)]
        for name, e in report["models"].items()
    ]
    return [line for line in lines if set(line[1:]) != {EMPTY}]


def _shown(rows: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """The rows of the run's students, each family with its teacher; a student's family is its teacher's row's."""
    family, found = "", []
    for row in rows:
        family = row.get("family", family)
        found.append(row | {"family": family})
    there = {row["family"] for row in found if _ours(row, report)}
    return [row for row in found if row["family"] in there and (not row["students"] or _ours(row, report))]


def _ours(row: dict[str, Any], report: Report) -> list[str]:
    return [name for name in students(report) if name in row["students"]]


def _own(report: Report, student: str) -> dict[str, Any]:
    return report["models"][f"{student}/{stages(report, student)[0]}"]


def _times(report: Report, student: str) -> str:
    own, teacher = _own(report, student), report["models"]["teacher"]
    if found := own.get("speedup"):
        return f"{estimate(found)} ×"
    return f"{teacher['latency_ms_p50'] / own['latency_ms_p50']:.2f} ×"
