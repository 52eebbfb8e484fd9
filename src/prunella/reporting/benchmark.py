"""The benchmark's report: what drawing, scores and costs have given, in one JSON file, on one page, with pictures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunella.evaluation.differences import Values, between, timestep_bins
from prunella.params import Filter
from prunella.pruning.layout import layout
from prunella.pruning.plan import read_plan
from prunella.reporting import charts
from prunella.reporting.filter_report import Filtered, filter_page
from prunella.reporting.histograms import histograms
from prunella.reporting.html_report import page
from prunella.reporting.image_gallery import NO_CLAIMS, Galleries, Judge, samples, shown, wall
from prunella.reporting.image_grid import grid
from prunella.reporting.markdown import markdown
from prunella.reporting.plan_explanation import evidence
from prunella.reporting.plan_svg import svg
from prunella.reporting.summary import headline
from prunella.sampling.gallery import BASE, STAGES, Gallery
from prunella.storage.files import read_json

GRID = 8  # pictures in a row of the grids in images/
ENLARGED = 128  # pixels that a small picture is enlarged towards there
PINNED = ("source", "commit", "family", "prediction_type")  # of the teacher, that a report names
Report = dict[str, Any]
Show = Callable[[int, str, Image.Image], None]  # is given step 0, a name and a picture

UNTUNED = "not tuned (finetune.students): its figures are those of what was passed on"


@dataclass(frozen=True)
class Sources:
    """Where the report's parts are."""

    teacher: Path  # as the teacher stage pinned it, a file
    plans: Path  # STUDENT.yaml
    drawn: Path  # galleries: teacher, STUDENT/STAGE
    speeds: Path  # of drawing: teacher.json, STUDENT.json
    scores: Path  # teacher.json, STUDENT.json
    costs: Path  # a file
    curves: Path  # TRAINING/STUDENT/*.csv
    trainings: Path  # TRAINING/STUDENT.json
    encoded: Path  # the encode stage's report, a file
    filtered: Path  # the filter's report, a file
    examples: Path  # the filter's examples
    pairs: Path  # what the filter has kept, a folder


def assemble(
    sources: Sources,
    students: list[str],
    settings: dict[str, Any],
    origin: dict[str, Any],
    others: Sequence[str] = (),
) -> Report:
    """{"origin", "teacher", "data", "training", "hardware", "settings", "models", "floors", "differences",
    "unavailable"} from the parts' reports.

    A model has the figures of its scores, of its drawing, and the costs of its architecture. "differences" are paired
    ("A - B": A minus B, docs/evaluation.md): a student's stages from the one before and from the teacher, and every two
    students stage by stage. `others` are models of others that were tuned here (`finetune.base`).
    """
    costs, pinned = read_json(sources.costs), read_json(sources.teacher)
    report: Report = {
        "origin": origin,
        "teacher": _teacher(pinned),
        "data": _data(sources),
        "training": {student: _trainings(sources.trainings, student) for student in students}
        | {name: _trainings(sources.trainings, name, ("finetune",)) for name in others},
        "hardware": costs["hardware"],
        "settings": settings | costs["settings"],
        "models": {},
    }
    report |= {"floors": {}, "differences": {}, "unavailable": {}}
    untuned = [name for name, each in report["training"].items() if each.get("finetune", {}).get("steps") == 0]
    report["unavailable"] |= {f"{name}/finetuned": UNTUNED for name in untuned}
    values: dict[str, Values] = {}
    for owner in ["teacher", *students, *others]:
        scores, speeds = read_json(sources.scores / f"{owner}.json"), read_json(sources.speeds / f"{owner}.json")
        for name, entry in scores["models"].items():
            rate = {"images_per_second": speeds["models"][name]["images_per_second"]}
            report["models"][name] = {**costs["models"].get(name, costs["models"][owner]), **rate, **entry}
            report["settings"]["prompts"] = speeds["models"][name]["pictures"]
        for part in ("floors", "differences", "unavailable"):
            report[part] |= scores.get(part, {})
        values |= scores["pairs"]
    bins = timestep_bins(**read_json(sources.scores / "teacher.json")["heldout"])
    drawn = [stage for stage in STAGES if f"{students[0]}/{stage}" in values]  # the same of every student
    report["differences"] |= between(values, students, drawn, bins)
    for name in others:
        own = [stage for stage in STAGES if f"{name}/{stage}" in values]
        report["differences"] |= between(values, [name], own, bins)
    return report


def _teacher(pinned: dict[str, Any]) -> dict[str, Any]:
    """What is told of the teacher; "layout" names the plan of one that is a student itself."""
    told = {"name": pinned.get("id") or pinned.get("path")} | {name: pinned.get(name) for name in PINNED}
    known = layout(pinned.get("unet", {}))
    return told | ({"layout": known.name} if known else {})


def _data(sources: Sources) -> dict[str, Any]:
    filtered, encoded = read_json(sources.filtered), read_json(sources.encoded)
    found = {name: filtered[name] for name in ("source", "read", "kept")}
    return found | {name: encoded.get(name) for name in ("train", "heldout", "sizes")}


def _trainings(folder: Path, model: str, trainings: Sequence[str] = ("distill", "finetune")) -> dict[str, Any]:
    """Steps, time and memory of a model's trainings, by name."""
    names = ("steps", "seconds", "images_per_second", "peak_memory_mb", "runtime")
    reports = {training: folder / training / f"{model}.json" for training in trainings}
    there = {training: read_json(path) for training, path in reports.items() if path.is_file()}
    return {training: {name: each.get(name) for name in names} for training, each in there.items()}


def _repeatable(report: Report) -> dict[str, dict[str, float]]:
    """The headline without latencies: they differ at every run and machine, so DVC would call each a change."""
    return {
        model: {name: value for name, value in figures.items() if not name.startswith("latency")}
        for model, figures in headline(report).items()
    }


def write_pages(
    report: Report, sources: Sources, students: list[str], out: Path, show: Show, judge: Judge = NO_CLAIMS
) -> None:
    """Write headline.json, index.html, summary.md, filter.html and images/ into `out`; `show` is given each grid.

    `judge` says of a picture and its caption which claims are true, where captions make any.
    """
    models = [name for name in report["models"]]
    # Of others: a student that once had such a name has left its plan and its distillation, which are not theirs.
    others = [name for name in students if f"{name}/{BASE}" in models]
    side = max(max(prompt.width, prompt.height) for prompt in Gallery(sources.drawn / "teacher").prompts)
    galleries = _galleries(sources.drawn, models, shown(len(models), side, report["settings"]["prompts"]))
    _write_grids(galleries, students, out / "images", show)
    (out / "headline.json").write_text(json.dumps(_repeatable(report), indent=1) + "\n")
    filtered = Filtered(read_json(sources.filtered), sources.examples)
    text = page(
        report,
        plans={name: _drawn_plan(sources.plans / f"{name}.yaml") for name in students if name not in others},
        cards=wall(galleries, _errors(sources.scores, students), judge),
        curves=charts.curves(sources.curves, students, others),
        samples=samples(sources.curves, students, others),
        histograms=histograms(sources.pairs),
        filtered=filtered,
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    (out / "summary.md").write_text(markdown(report), encoding="utf-8")
    (out / "filter.html").write_text(filter_page(filtered), encoding="utf-8")


def _drawn_plan(path: Path) -> str:
    """A plan as a picture, in the colours of importance where it was chosen by that."""
    return svg(read_plan(path), evidence(path).get("parts"))


def judge(params: Filter) -> Judge:
    """Says of a picture and its caption which claims are true; None of all but rendered scenes."""
    if params.source != "scenes":
        return NO_CLAIMS
    from prunella.scenes import judge as scenes
    from prunella.scenes.generator import read_vocabulary

    vocabulary = read_vocabulary(params.path)
    return lambda picture, caption: scenes.judge(picture, caption, vocabulary)


def _galleries(drawn: Path, models: list[str], count: int) -> Galleries:
    """The first prompts and pictures of every model."""
    return {name: Gallery(drawn / name).first(count) for name in models}


def _errors(scores: Path, students: list[str]) -> dict[str, list[float]]:
    """Output errors by held-out pair, of every model that has them."""
    known = [read_json(scores / f"{student}.json").get("pairs", {}) for student in students]
    return {name: each["output_error"] for pairs in known for name, each in pairs.items() if "output_error" in each}


def _write_grids(galleries: Galleries, students: list[str], out: Path, show: Show) -> None:
    """A grid per student, the teacher above it, as PNG for MLflow, DVC and Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    pictures = {name: [picture for _, picture in some[:GRID]] for name, some in galleries.items()}
    for student in students:
        rows: dict[str, list[np.ndarray]] = {"teacher": pictures["teacher"]}
        rows |= {stage: pictures[name] for stage in STAGES if (name := f"{student}/{stage}") in pictures}
        sheet = grid(rows, max(1, ENLARGED // pictures["teacher"][0].shape[0]))
        sheet.save(out / f"{student}.png")
        show(0, student, sheet)
