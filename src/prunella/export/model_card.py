"""The model card of a student, written from what the run measured and pinned."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prunella.export.license import inherit_license
from prunella.export.provenance import TEACHER_PIN, collect_model_provenance, format_teacher_name
from prunella.export.resolve_model import MODEL_STAGES, model_label
from prunella.params import load_shipped_defaults
from prunella.reporting.summary import build_summary_table
from prunella.storage.files import read_json

REPORTS_DIR = Path("reports")
MINIATURE_PROMPT = "a small red heart above a large blue ring on a grey background"  # what the miniature knows
DEFAULT_PROMPT = "a photograph of an astronaut riding a horse"  # not a caption of the data, which may be private
UNKNOWN_TEACHER = {"source": "folder", "family": "sd", "unet": {}, "path": ""}


def render_model_card(
    folder: Path, model_location: str, license_id: str | None = None, image_names: tuple[str, ...] = ()
) -> str:
    """The README.md of a student's folder, in Markdown with the Hub's front matter.

    `model_location` is what `from_pretrained` is to be given; `image_names` are files beside the card.
    """
    teacher_pin = read_json(TEACHER_PIN) if TEACHER_PIN.is_file() else UNKNOWN_TEACHER
    report = read_json(REPORTS_DIR / "benchmark.json") if (REPORTS_DIR / "benchmark.json").is_file() else {}
    settings = report.get("settings") or load_shipped_defaults()["benchmark"]
    return (
        _card_environment()
        .get_template("README.md.j2")
        .render(
            title=model_label(folder),
            teacher=format_teacher_name(teacher_pin) if TEACHER_PIN.is_file() else "a Stable Diffusion",
            base_model=teacher_pin.get("id"),
            size=_summarize_size(report, folder),
            pictures=image_names,
            where=model_location,
            prompt=MINIATURE_PROMPT if teacher_pin["source"] == "bundled" else DEFAULT_PROMPT,
            steps=settings["num_inference_steps"],
            guidance=settings["guidance_scale"],
            table=_render_benchmark_table(report, folder),
            measured=_describe_measurement(report),
            training=_describe_training(folder),
            checked=(folder / "safety_checker").is_dir(),
            licence=inherit_license(teacher_pin, license_id),
            lineage=collect_model_provenance(folder),
        )
    )


@cache
def _card_environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=False,  # Markdown, and what is put in is the run's own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _summarize_size(report: dict[str, Any], folder: Path) -> dict[str, str] | None:
    models = report.get("models", {})
    student_metrics = models.get(f"{folder.name}/{folder.parent.name}")
    if student_metrics is None or "teacher" not in models:
        return None
    teacher_params = models["teacher"]["params"]
    fraction = f"{100 * student_metrics['params'] / teacher_params:.1f} %"
    return {"params": f"{student_metrics['params']:,}", "teacher": f"{teacher_params:,}", "share": fraction}


def _render_benchmark_table(report: dict[str, Any], folder: Path) -> str:
    """The benchmark's rows of the teacher and of this student at all its stages, in Markdown."""
    models = report.get("models", {})
    selected_models = {
        name: entry for name, entry in models.items() if name.partition("/")[0] in ("teacher", folder.name)
    }
    if len(selected_models) < 2:
        return ""
    header, *cells = build_summary_table(report | {"models": selected_models, "floors": {}})
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *cells))


def _describe_measurement(report: dict[str, Any]) -> str:
    if not report:
        return ""
    settings, hardware = report["settings"], report["hardware"]
    machine = hardware.get("gpu") or hardware.get("cpu") or hardware.get("device")
    return (
        f"Measured on {machine} in {settings['precision']}: {settings['num_inference_steps']} steps, guidance "
        f"{settings['guidance_scale']}, {settings['prompts']} held-out captions, the same noise "
        "for all models; 95 % intervals."
    )


def _describe_training(folder: Path) -> list[str]:
    """Sentences about the data and the trainings, from the stages' reports."""
    lines = []
    if (path := REPORTS_DIR / "filter.json").is_file():
        filter_report = read_json(path)
        lines.append(
            f"Data: {filter_report['kept']:,} captioned pictures were kept of {filter_report['read']:,} that were read."
        )
    if (path := REPORTS_DIR / "encode.json").is_file():
        encode_report = read_json(path)
        lines.append(
            f"Of these {encode_report['train']:,} were trained on, and {encode_report['heldout']:,} held out for the "
            "figures."
        )
    for stage, label in (("distill", "Distillation"), ("finetune", "Fine-tuning")):
        path = REPORTS_DIR / stage / f"{folder.name}.json"
        if path.is_file() and _has_completed_stage(folder, stage):
            stage_report = read_json(path)
            lines.append(
                f"{label}: {stage_report['steps']:,} steps, {stage_report['images_per_second']} images a second."
            )
    return lines or ["The run's reports were not at hand."]


def _has_completed_stage(folder: Path, stage: str) -> bool:
    """Whether a model at its folder's stage has gone through `stage`."""
    completed_stages = {"pruned": (), "distilled": ("distill",), "finetuned": ("distill", "finetune")}
    return stage in completed_stages.get(folder.parent.name, ()) if folder.parent.name in MODEL_STAGES else False
