"""The model that a name on the command line means: a student of this graph at its latest stage, or any pipeline
folder."""

from pathlib import Path

from prunella.errors import UserError

MODEL_STAGES = ("finetuned", "distilled", "pruned")  # the latest first
MODELS_DIR = Path("models")
MODEL_INDEX = "model_index.json"  # by which a pipeline folder is known


def resolve_model(name: str, stage: str | None = None) -> Path:
    """The pipeline folder of `name`: a folder's path, "teacher", or a student at `stage` (None: its latest).

    Raises UserError that says what there is instead.
    """
    if (Path(name) / MODEL_INDEX).is_file():
        return Path(name)
    if name == "teacher":
        return _resolve_pinned_teacher()
    stages = (stage,) if stage else MODEL_STAGES
    for candidate_stage in stages:
        if (MODELS_DIR / candidate_stage / name / MODEL_INDEX).is_file():
            return MODELS_DIR / candidate_stage / name
    existing = [
        f"{path.parent.name} ({path.parent.parent.name})" for path in sorted(MODELS_DIR.glob(f"*/*/{MODEL_INDEX}"))
    ]
    raise UserError(
        f"there is no {stage + ' ' if stage else ''}student {name!r} under {MODELS_DIR}/, nor a diffusers pipeline "
        "folder "
        f"of that name; "
        + (f"there are: {', '.join(existing)}" if existing else "`dvc repro` or `dvc pull` makes students")
    )


def model_label(folder: Path) -> str:
    """The name of a model: "sd-tiny (distilled)" of this graph's, else its folder's name."""
    is_graph_output = folder.parent.name in MODEL_STAGES
    return f"{folder.name} ({folder.parent.name})" if is_graph_output else folder.resolve().name


def _resolve_pinned_teacher() -> Path:
    pin_path = MODELS_DIR / "teacher.json"
    if not pin_path.is_file():
        raise UserError(f"{pin_path}: no teacher is pinned yet; `dvc repro teacher` pins it")
    from prunella.models.pipeline import resolve_teacher_dir

    return resolve_teacher_dir(pin_path)
