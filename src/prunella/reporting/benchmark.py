"""The benchmark's report: what drawing, scores and costs have given, in one JSON file, on one page, with pictures."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prunella.evaluation.differences import Values, bin_timesteps, compare_models
from prunella.params import Filter
from prunella.pruning.layout import find_matching_plan
from prunella.pruning.plan import read_plan
from prunella.reporting import charts
from prunella.reporting.filter_report import FilterSummary, render_filter_page
from prunella.reporting.histograms import plot_sample_histograms
from prunella.reporting.html_report import render_report_page
from prunella.reporting.image_gallery import (
    NO_CLAIMS,
    ClaimJudge,
    ImagesByModel,
    build_gallery,
    limit_prompts,
    load_training_images,
)
from prunella.reporting.image_grid import render_grid
from prunella.reporting.markdown import render_summary_markdown
from prunella.reporting.plan_explanation import read_plan_evidence
from prunella.reporting.plan_svg import render_plan_svg
from prunella.reporting.summary import extract_headline
from prunella.sampling.gallery import ALL_STAGES, BASE_STAGE, ImageShards
from prunella.storage.files import read_json

GRID_COLUMNS = 8  # pictures in a row of the grids in images/
MIN_GRID_PIXELS = 128  # pixels that a small picture is enlarged towards there
TEACHER_KEYS = ("source", "commit", "family", "prediction_type")  # of the teacher, that a report names
Report = dict[str, Any]
ImageCallback = Callable[[int, str, Image.Image], None]  # is given step 0, a name and a picture

NOT_FINETUNED = "not tuned (finetune.students): its figures are those of what was passed on"


@dataclass(frozen=True)
class ReportInputs:
    """The places of the report's parts."""

    teacher: Path  # as the teacher stage pinned it, a file
    plans: Path  # STUDENT.yaml
    images: Path  # galleries: teacher, STUDENT/STAGE
    speeds: Path  # of drawing: teacher.json, STUDENT.json
    scores: Path  # teacher.json, STUDENT.json
    costs: Path  # a file
    curves: Path  # TRAINING/STUDENT/*.csv
    trainings: Path  # TRAINING/STUDENT.json
    encoded: Path  # the encode stage's report, a file
    filtered: Path  # the filter's report, a file
    examples: Path  # the filter's examples
    pairs: Path  # what the filter has kept, a folder


def assemble_report(
    inputs: ReportInputs,
    students: list[str],
    settings: dict[str, Any],
    origin: dict[str, Any],
    base_models: Sequence[str] = (),
) -> Report:
    """{"origin", "teacher", "data", "training", "hardware", "settings", "models", "floors", "differences",
    "unavailable"} from the parts' reports.

    A model has the figures of its scores, of its drawing, and the costs of its architecture. "differences" are paired
    ("A - B": A minus B, docs/evaluation.md): a student's stages from the one before and from the teacher, and every two
    students stage by stage. `base_models` are models of others that were tuned here (`finetune.base`).
    """
    costs, teacher_pin = read_json(inputs.costs), read_json(inputs.teacher)
    report: Report = {
        "origin": origin,
        "teacher": _describe_teacher(teacher_pin),
        "data": _summarize_data(inputs),
        "training": {student: _summarize_trainings(inputs.trainings, student) for student in students}
        | {name: _summarize_trainings(inputs.trainings, name, ("finetune",)) for name in base_models},
        "hardware": costs["hardware"],
        "settings": settings | costs["settings"],
        "models": {},
    }
    report |= {"floors": {}, "differences": {}, "unavailable": {}}
    not_finetuned = [
        name for name, trainings in report["training"].items() if trainings.get("finetune", {}).get("steps") == 0
    ]
    report["unavailable"] |= {f"{name}/finetuned": NOT_FINETUNED for name in not_finetuned}
    values: dict[str, Values] = {}
    for model_group in ["teacher", *students, *base_models]:
        scores, speeds = (
            read_json(inputs.scores / f"{model_group}.json"),
            read_json(inputs.speeds / f"{model_group}.json"),
        )
        for name, entry in scores["models"].items():
            throughput = {"images_per_second": speeds["models"][name]["images_per_second"]}
            report["models"][name] = {**costs["models"].get(name, costs["models"][model_group]), **throughput, **entry}
            report["settings"]["prompts"] = speeds["models"][name]["pictures"]
        for section in ("floors", "differences", "unavailable"):
            report[section] |= scores.get(section, {})
        values |= scores["pairs"]
    bins = bin_timesteps(**read_json(inputs.scores / "teacher.json")["heldout"])
    measured_stages = [stage for stage in ALL_STAGES if f"{students[0]}/{stage}" in values]  # the same of every student
    report["differences"] |= compare_models(values, students, measured_stages, bins)
    for name in base_models:
        base_stages = [stage for stage in ALL_STAGES if f"{name}/{stage}" in values]
        report["differences"] |= compare_models(values, [name], base_stages, bins)
    return report


def _describe_teacher(teacher_pin: dict[str, Any]) -> dict[str, Any]:
    """The teacher's entry; "layout" names the plan of one that is a student itself."""
    description = {"name": teacher_pin.get("id") or teacher_pin.get("path")} | {
        name: teacher_pin.get(name) for name in TEACHER_KEYS
    }
    matching_plan = find_matching_plan(teacher_pin.get("unet", {}))
    return description | ({"layout": matching_plan.name} if matching_plan else {})


def _summarize_data(inputs: ReportInputs) -> dict[str, Any]:
    filter_report, encode_report = read_json(inputs.filtered), read_json(inputs.encoded)
    summary = {name: filter_report[name] for name in ("source", "read", "kept")}
    return summary | {name: encode_report.get(name) for name in ("train", "heldout", "sizes")}


def _summarize_trainings(
    folder: Path, model: str, trainings: Sequence[str] = ("distill", "finetune")
) -> dict[str, Any]:
    """Steps, time and memory of a model's trainings, by name."""
    names = ("steps", "seconds", "images_per_second", "peak_memory_mb", "runtime")
    reports = {training: folder / training / f"{model}.json" for training in trainings}
    existing = {training: read_json(path) for training, path in reports.items() if path.is_file()}
    return {
        training: {name: training_report.get(name) for name in names} for training, training_report in existing.items()
    }


def _headline_without_latency(report: Report) -> dict[str, dict[str, float]]:
    """The headline without latencies: they differ at every run and machine, so DVC would call each a change."""
    return {
        model: {name: value for name, value in figures.items() if not name.startswith("latency")}
        for model, figures in extract_headline(report).items()
    }


def write_report_pages(
    report: Report,
    inputs: ReportInputs,
    students: list[str],
    out: Path,
    image_callback: ImageCallback,
    claim_judge: ClaimJudge = NO_CLAIMS,
) -> None:
    """Write headline.json, index.html, summary.md, filter.html and images/ into `out`; `image_callback` is given each
    grid.

    `make_claim_judge` says of a picture and its caption which claims are true, where captions make any.
    """
    models = [name for name in report["models"]]
    # Of others: a student that once had such a name has left its plan and its distillation, which are not theirs.
    base_models = [name for name in students if f"{name}/{BASE_STAGE}" in models]
    max_side = max(max(prompt.width, prompt.height) for prompt in ImageShards(inputs.images / "teacher").prompts)
    images_by_model = _load_images(
        inputs.images, models, limit_prompts(len(models), max_side, report["settings"]["prompts"])
    )
    _write_image_grids(images_by_model, students, out / "images", image_callback)
    (out / "headline.json").write_text(json.dumps(_headline_without_latency(report), indent=1) + "\n")
    filter_summary = FilterSummary(read_json(inputs.filtered), inputs.examples)
    text = render_report_page(
        report,
        plans={name: _render_plan(inputs.plans / f"{name}.yaml") for name in students if name not in base_models},
        cards=build_gallery(images_by_model, _read_output_errors(inputs.scores, students), claim_judge),
        curves=charts.plot_training_curves(inputs.curves, students, base_models),
        training_images=load_training_images(inputs.curves, students, base_models),
        histograms=plot_sample_histograms(inputs.pairs),
        filter_summary=filter_summary,
    )
    (out / "index.html").write_text(text, encoding="utf-8")
    (out / "summary.md").write_text(render_summary_markdown(report), encoding="utf-8")
    (out / "filter.html").write_text(render_filter_page(filter_summary), encoding="utf-8")


def _render_plan(path: Path) -> str:
    """A plan as a picture, in the colours of importance where it was chosen by that."""
    return render_plan_svg(read_plan(path), read_plan_evidence(path).get("parts"))


def make_claim_judge(params: Filter) -> ClaimJudge:
    """Says of a picture and its caption which claims are true; None of all but rendered scenes."""
    if params.source != "scenes":
        return NO_CLAIMS
    from prunella.scenes import judge as scenes
    from prunella.scenes.generator import read_vocabulary

    vocabulary = read_vocabulary(params.path)
    return lambda image, caption: scenes.judge_image(image, caption, vocabulary)


def _load_images(images_dir: Path, models: list[str], count: int) -> ImagesByModel:
    """The first prompts and pictures of every model."""
    return {name: ImageShards(images_dir / name).read_first(count) for name in models}


def _read_output_errors(scores: Path, students: list[str]) -> dict[str, list[float]]:
    """Output errors by held-out pair, of every model that has them."""
    pairs_by_student = [read_json(scores / f"{student}.json").get("pairs", {}) for student in students]
    return {
        name: pair_metrics["output_error"]
        for pairs in pairs_by_student
        for name, pair_metrics in pairs.items()
        if "output_error" in pair_metrics
    }


def _write_image_grids(
    images_by_model: ImagesByModel, students: list[str], out: Path, image_callback: ImageCallback
) -> None:
    """A grid per student, the teacher above it, as PNG for MLflow, DVC and Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    grid_images = {
        name: [image for _, image in model_images[:GRID_COLUMNS]] for name, model_images in images_by_model.items()
    }
    for student in students:
        rows: dict[str, list[np.ndarray]] = {"teacher": grid_images["teacher"]}
        rows |= {stage: grid_images[name] for stage in ALL_STAGES if (name := f"{student}/{stage}") in grid_images}
        sheet = render_grid(rows, max(1, MIN_GRID_PIXELS // grid_images["teacher"][0].shape[0]))
        sheet.save(out / f"{student}.png")
        image_callback(0, student, sheet)
