"""The model card of a student, written from what the run measured and pinned."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from prunella.export.license import inherited
from prunella.export.provenance import TEACHER, lineage, teacher_name
from prunella.export.resolve_model import STAGES, label
from prunella.params import shipped_defaults
from prunella.reporting.summary import rows
from prunella.storage.files import read_json

REPORTS = Path("reports")
SCENE = "a small red heart above a large blue ring on a grey background"  # what the miniature knows
PROMPT = "a photograph of an astronaut riding a horse"  # not a caption of the data, which may be private
UNKNOWN = {"source": "folder", "family": "sd", "unet": {}, "path": ""}


def card(folder: Path, where: str, licence: str | None = None, pictures: tuple[str, ...] = ()) -> str:
    """The README.md of a student's folder, in Markdown with the Hub's front matter.

    `where` is what `from_pretrained` is to be given; `pictures` are files beside the card.
    """
    pinned = read_json(TEACHER) if TEACHER.is_file() else UNKNOWN
    report = read_json(REPORTS / "benchmark.json") if (REPORTS / "benchmark.json").is_file() else {}
    settings = report.get("settings") or shipped_defaults()["benchmark"]
    return (
        _environment()
        .get_template("README.md.j2")
        .render(
            title=label(folder),
            teacher=teacher_name(pinned) if TEACHER.is_file() else "a Stable Diffusion",
            base_model=pinned.get("id"),
            size=_size(report, folder),
            pictures=pictures,
            where=where,
            prompt=SCENE if pinned["source"] == "bundled" else PROMPT,
            steps=settings["inference_steps"],
            guidance=settings["guidance"],
            table=_table(report, folder),
            measured=_measured(report),
            training=_training(folder),
            checked=(folder / "safety_checker").is_dir(),
            licence=inherited(pinned, licence),
            lineage=lineage(folder),
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=False,  # Markdown, and what is put in is the run's own
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _size(report: dict[str, Any], folder: Path) -> dict[str, str] | None:
    models = report.get("models", {})
    mine = models.get(f"{folder.name}/{folder.parent.name}")
    if mine is None or "teacher" not in models:
        return None
    whole = models["teacher"]["params"]
    share = f"{100 * mine['params'] / whole:.1f} %"
    return {"params": f"{mine['params']:,}", "teacher": f"{whole:,}", "share": share}


def _table(report: dict[str, Any], folder: Path) -> str:
    """The benchmark's rows of the teacher and of this student at all its stages, in Markdown."""
    models = report.get("models", {})
    wanted = {name: entry for name, entry in models.items() if name.partition("/")[0] in ("teacher", folder.name)}
    if len(wanted) < 2:
        return ""
    head, *cells = rows(report | {"models": wanted, "floors": {}})
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells))


def _measured(report: dict[str, Any]) -> str:
    if not report:
        return ""
    settings, hardware = report["settings"], report["hardware"]
    machine = hardware.get("gpu") or hardware.get("cpu") or hardware.get("device")
    return (
        f"Measured on {machine} in {settings['precision']}: {settings['inference_steps']} steps, guidance "
        f"{settings['guidance']}, {settings['prompts']} held-out captions, the same noise "
        "for all models; 95 % intervals."
    )


def _training(folder: Path) -> list[str]:
    """Sentences about the data and the trainings, from the stages' reports."""
    lines = []
    if (path := REPORTS / "filter.json").is_file():
        data = read_json(path)
        lines.append(f"Data: {data['kept']:,} captioned pictures were kept of {data['read']:,} that were read.")
    if (path := REPORTS / "encode.json").is_file():
        split = read_json(path)
        lines.append(f"Of these {split['train']:,} were trained on, and {split['heldout']:,} held out for the figures.")
    for stage, words in (("distill", "Distillation"), ("finetune", "Fine-tuning")):
        path = REPORTS / stage / f"{folder.name}.json"
        if path.is_file() and _has_been(folder, stage):
            told = read_json(path)
            lines.append(f"{words}: {told['steps']:,} steps, {told['images_per_second']} images a second.")
    return lines or ["The run's reports were not at hand."]


def _has_been(folder: Path, stage: str) -> bool:
    """Whether a model at its folder's stage has gone through `stage`."""
    reached = {"pruned": (), "distilled": ("distill",), "finetuned": ("distill", "finetune")}
    return stage in reached.get(folder.parent.name, ()) if folder.parent.name in STAGES else False
