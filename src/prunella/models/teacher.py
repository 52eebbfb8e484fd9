"""What a teacher is, pinned by its files' hashes; its weights stay where they are.

Needs no torch: configs and headers are read, not weights. What `prunella.models.check` looks at comes after this.
"""

from pathlib import Path

from prunella.errors import UserError
from prunella.models import hub
from prunella.models.configs import Students, described, models, nobody, stem
from prunella.models.families import family
from prunella.models.weights import PICKLES, check_part, header, refuse_pickle
from prunella.params import Teacher
from prunella.storage.files import read_json, sha256

PINNED = (".safetensors", ".json", ".txt", ".model", *PICKLES)
# Text encoders' names in single files, and where the configs and tokenizers of such a checkpoint are to be had.
SINGLE = {
    "conditioner.embedders.1.": "stabilityai/stable-diffusion-xl-base-1.0",
    "cond_stage_model.model.": "stabilityai/stable-diffusion-2-1",
    "cond_stage_model.transformer.": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def pin(teacher: Teacher, earlier: dict | None = None, key: str = "teacher", students: Students = nobody) -> dict:
    """{"source", "family", "prediction_type", "files": {name: sha256}, "unet": config} and where the weights are.

    "path" is a folder's or a file's; a Hub teacher has "id", "revision" and "commit" in its place, the commit being
    that of `earlier` where this pins the same id and revision. A single file has "config", the folder or the Hub id
    and commit that its configs come from. A student is taken where `students` says so of its UNet's config; "family" is
    then the one that it is called as. Raises UserError, by the parameter `key`, where there is no usable Stable
    Diffusion.
    """
    return _pinned(teacher, earlier or {}, key, students)


def pin_base(model: Teacher, earlier: dict, key: str) -> dict:
    """As `pin`, of any student too: "family" is then the one that it is called as, and "student" is true."""
    pinned = _pinned(model, earlier, key, students=lambda _: True)
    return pinned | {"student": family(pinned["unet"]) is None}


def _pinned(model: Teacher, earlier: dict, key: str, students: Students = nobody) -> dict:
    try:
        return _PINS[model.source](model, earlier, students)
    except UserError as error:  # which names the section `teacher`
        raise UserError(str(error).replace("teacher.", f"{key}.")) from None


def earlier_pin(path: Path) -> dict:
    """What an earlier run has written to `path`; {} where there is nothing, or nothing whole."""
    try:
        known = read_json(path)
    except (OSError, UserError):
        return {}
    return known if isinstance(known, dict) else {}


def _pin_local(teacher: Teacher, _: dict, students: Students) -> dict:
    folder = Path(teacher.path)
    if not folder.is_dir():
        raise UserError(f"teacher.path: there is no folder {folder}; it should be a diffusers pipeline folder")
    return {"source": teacher.source, "path": teacher.path} | _pin_folder(folder, teacher.allow_pickle, students)


def _pin_hub(teacher: Teacher, earlier: dict, students: Students) -> dict:
    assert teacher.id is not None  # which its section sees to
    same = (earlier.get("id"), earlier.get("revision")) == (teacher.id, teacher.revision)
    patterns = hub.MODEL + (hub.PICKLED if teacher.allow_pickle else [])
    folder = hub.snapshot(teacher.id, earlier["commit"] if same else teacher.revision, patterns)
    where = {"source": "hub", "id": teacher.id, "revision": teacher.revision, "commit": folder.name}
    return where | _pin_folder(folder, teacher.allow_pickle, students)


def _pin_folder(folder: Path, allow_pickle: bool, students: Students) -> dict:
    told = describe_folder(folder, students)
    for part, (library, _) in models(folder, told["family"]).items():
        check_part(folder / part, allow_pickle, stem(library))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in PINNED)
    return told | {"files": {path.relative_to(folder).as_posix(): sha256(path) for path in files}}


def _pin_file(teacher: Teacher, earlier: dict, students: Students) -> dict:
    path = Path(teacher.path)
    if not path.is_file():
        raise UserError(f"teacher.path: there is no file {path}; it should be a .safetensors checkpoint")
    if path.suffix in PICKLES:
        if not teacher.allow_pickle:
            refuse_pickle(path)
        if teacher.config is None:
            raise UserError("teacher.config: a pickle cannot be looked into; name the folder of its configs here")
    if teacher.config and Path(teacher.config).is_dir():
        config, folder = {"path": teacher.config}, Path(teacher.config)
    else:
        name = teacher.config or _configs_of(path)
        pinned = earlier.get("config", {})
        revision = pinned["commit"] if pinned.get("id") == name else "main"
        folder = hub.snapshot(name, revision, hub.CONFIGS, key="teacher.config")
        config = {"id": name, "commit": folder.name}
    where = {"source": "file", "path": teacher.path, "config": config}
    return where | describe_folder(folder, students) | {"files": {path.name: sha256(path)}}


_PINS = {"hub": _pin_hub, "file": _pin_file, "folder": _pin_local, "bundled": _pin_local}


def _configs_of(path: Path) -> str:
    """The Hub id of the original whose shape the single file has, by the names of its text encoder's weights."""
    names = header(path)
    for prefix, original in SINGLE.items():
        if any(name.startswith(prefix) for name in names):
            return original
    raise UserError(
        f"teacher.path: {path} is no Stable Diffusion checkpoint of one file: it has no text encoder of SD 1.x, 2.x or "
        "SDXL. A UNet alone will not do; of another layout, name the folder of its configs as teacher.config"
    )


def describe_folder(folder: Path, students: Students = nobody) -> dict:
    """{"family", "prediction_type", "unet": config} by a pipeline folder's JSON files, all of which are checked."""
    name, unet, scheduler = described(folder, students)
    return {"family": name, "prediction_type": scheduler.get("prediction_type", "epsilon"), "unet": unet}
