"""Which model a name on the command line means: a student of this graph at its latest stage, or any pipeline folder."""

from pathlib import Path

from prunella.errors import UserError

STAGES = ("finetuned", "distilled", "pruned")  # the latest first
MODELS = Path("models")
INDEX = "model_index.json"  # by which a pipeline folder is known


def model_folder(name: str, stage: str | None = None) -> Path:
    """The pipeline folder of `name`: a folder's path, "teacher", or a student at `stage` (None: its latest).

    Raises UserError that says what there is instead.
    """
    if (Path(name) / INDEX).is_file():
        return Path(name)
    if name == "teacher":
        return _teacher()
    stages = (stage,) if stage else STAGES
    for each in stages:
        if (MODELS / each / name / INDEX).is_file():
            return MODELS / each / name
    there = [f"{path.parent.name} ({path.parent.parent.name})" for path in sorted(MODELS.glob(f"*/*/{INDEX}"))]
    raise UserError(
        f"there is no {stage + ' ' if stage else ''}student {name!r} under {MODELS}/, nor a diffusers pipeline folder "
        f"of that name; " + (f"there are: {', '.join(there)}" if there else "`dvc repro` or `dvc pull` makes students")
    )


def label(folder: Path) -> str:
    """What a model is called: "sd-tiny (distilled)" of this graph's, else its folder's name."""
    ours = folder.parent.name in STAGES
    return f"{folder.name} ({folder.parent.name})" if ours else folder.resolve().name


def _teacher() -> Path:
    pinned = MODELS / "teacher.json"
    if not pinned.is_file():
        raise UserError(f"{pinned}: no teacher is pinned yet; `dvc repro teacher` pins it")
    from prunella.models.pipeline import teacher_folder

    return teacher_folder(pinned)
