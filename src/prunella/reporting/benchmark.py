"""The benchmark's report: what drawing, scores and costs have given, in one JSON file, on one page, with pictures."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunella.evaluation.gallery.shards import STAGES, Gallery
from prunella.evaluation.grid import grid
from prunella.pruning.plan import read_plan
from prunella.reporting.chart import Curves
from prunella.reporting.diagram import svg
from prunella.reporting.filter_page import filter_page
from prunella.reporting.page import page
from prunella.reporting.summary import by_part, changes, headline, rows

SHOWN = 8  # pictures in a grid's row
ENLARGED = 128  # pixels that a small picture is enlarged towards
Report = dict[str, Any]


@dataclass(frozen=True)
class Sources:
    """Where the report's parts are."""

    plans: Path  # STUDENT.yaml
    drawn: Path  # galleries: teacher, STUDENT/STAGE
    speeds: Path  # of drawing: teacher.json, STUDENT.json
    scores: Path  # teacher.json, STUDENT.json
    costs: Path  # a file
    curves: Path  # TRAINING/STUDENT/*.csv
    filtered: Path  # the filter's report, a file
    examples: Path  # the filter's examples


def assemble(sources: Sources, students: list[str], settings: dict[str, Any]) -> Report:
    """{"hardware", "settings", "models", "floors", "differences", "unavailable"} from the parts' reports.

    A model has the figures of its scores, of its drawing, and the costs of its architecture.
    """
    costs = _read(sources.costs)
    report: Report = {"hardware": costs["hardware"], "settings": settings | costs["settings"], "models": {}}
    report |= {"floors": {}, "differences": {}, "unavailable": {}}
    for owner in ["teacher", *students]:
        scores, speeds = _read(sources.scores / f"{owner}.json"), _read(sources.speeds / f"{owner}.json")
        for name, entry in scores["models"].items():
            rate = {"images_per_second": speeds["models"][name]["images_per_second"]}
            report["models"][name] = {**costs["models"][owner], **rate, **entry}
            report["settings"]["prompts"] = speeds["models"][name]["pictures"]
        for part in ("floors", "differences", "unavailable"):
            report[part] |= scores.get(part, {})
    return report


def write_pages(report: Report, sources: Sources, students: list[str], out: Path, show: Callable) -> None:
    """Write headline.json, index.html, filter.html and images/ into `out`; `show` is given each grid by its name."""
    galleries = _galleries(sources.drawn, students)
    images = _write_grids(galleries, students, out / "images", show)
    (out / "headline.json").write_text(json.dumps(headline(report), indent=1) + "\n")
    text = page(
        report,
        tables=[table for table in (rows(report), *by_part(report), changes(report)) if table],
        plans=[svg(read_plan(sources.plans / f"{student}.yaml")) for student in students],
        images=images,
        prompts=[prompt.text for prompt, _ in galleries["teacher"]],
        curves={**_curves(sources.curves, students), **_errors(report, students)},
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    filtered = filter_page(_read(sources.filtered), sources.examples)
    (out / "filter.html").write_text(filtered, encoding="utf-8")


def _read(path: Path) -> Report:
    return json.loads(path.read_text(encoding="utf-8"))


def _galleries(drawn: Path, students: list[str]) -> dict[str, list]:
    """The first prompts and pictures of every model."""
    folders = {"teacher": drawn / "teacher"}
    folders |= {f"{student}/{stage}": drawn / student / stage for student in students for stage in STAGES}
    return {name: Gallery(folder).first(SHOWN) for name, folder in folders.items()}


def _write_grids(
    galleries: dict[str, list], students: list[str], out: Path, show: Callable[[str, Image.Image], None]
) -> dict[str, str]:
    """A grid per student, the teacher above it; {caption: file relative to the page}."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {name: [picture for _, picture in some] for name, some in galleries.items()}
    files = {}
    for student in students:
        shown: dict[str, list[np.ndarray]] = {"teacher": pictures["teacher"]}
        shown |= {stage: pictures[f"{student}/{stage}"] for stage in STAGES}
        sheet = grid(shown, max(1, ENLARGED // pictures["teacher"][0].shape[0]))
        sheet.save(out / f"{student}.png")
        show(student, sheet)
        files[f"{student}: teacher, pruned, distilled, fine-tuned"] = f"{out.name}/{student}.png"
    return files


def _curves(folder: Path, students: list[str]) -> dict[str, Curves]:
    """Charts: every held-out term of each student's distillation, and the training losses of both trainings."""
    charts = {}
    for student in students:
        charts[f"{student}: distillation, held-out terms"] = _columns(folder / "distill" / student / "heldout.csv")
    for training in ("distill", "finetune"):
        losses = {s: _columns(folder / training / s / "train.csv").get("loss", []) for s in students}
        charts[f"{training}: training loss"] = losses
    return charts


def _columns(path: Path) -> Curves:
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    return {
        name: [(float(row["step"]), float(row[name])) for row in table if row[name]]
        for name in table[0]
        if name != "step"
    }


def _errors(report: Report, students: list[str]) -> dict[str, Curves]:
    models = report["models"]
    lines = {
        s: [(float(i), models[f"{s}/{stage}"]["output_error"]) for i, stage in enumerate(STAGES)] for s in students
    }
    return {"output error: pruned (0), distilled (1), fine-tuned (2)": lines}
