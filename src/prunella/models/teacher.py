"""A teacher, pinned by its files' hashes; its weights stay where they are.

Needs no torch: configs and headers are read, not weights. The check of `prunella.models.check` comes after this.
"""

from pathlib import Path

from prunella.errors import UserError
from prunella.models import hub
from prunella.models.configs import (
    StudentFilter,
    list_model_components,
    no_students,
    read_pipeline_configs,
    weights_stem,
)
from prunella.models.families import detect_teacher_family
from prunella.models.weights import PICKLE_SUFFIXES, check_weight_files, read_header, refuse_pickle
from prunella.params import ModelSource
from prunella.storage.files import read_json, sha256

PINNED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", *PICKLE_SUFFIXES)
# Text encoders' names in single files, and where the configs and tokenizers of such a checkpoint are to be had.
CONFIG_REPOS = {
    "conditioner.embedders.1.": "stabilityai/stable-diffusion-xl-base-1.0",
    "cond_stage_model.model.": "stabilityai/stable-diffusion-2-1",
    "cond_stage_model.transformer.": "stable-diffusion-v1-5/stable-diffusion-v1-5",
}


def pin_teacher(
    teacher: ModelSource,
    previous_pin: dict | None = None,
    param_key: str = "teacher",
    accepts_student: StudentFilter = no_students,
) -> dict:
    """{"source", "family", "prediction_type", "files": {name: sha256}, "unet": config} and where the weights are.

    "path" is a folder's or a file's; a Hub teacher has "id", "revision" and "commit" in its place, the commit being
    that of `previous_pin` where this pins the same id and revision. A single file has "config", the folder or the Hub
    id and commit that its configs come from. A student is taken where `accepts_student` says so of its UNet's config;
    "family" is then the one that it is called as. Raises UserError, by the parameter `param_key`, where there is no
    usable Stable Diffusion.
    """
    return _pin_model(teacher, previous_pin or {}, param_key, accepts_student)


def pin_base_model(model: ModelSource, previous_pin: dict, param_key: str) -> dict:
    """Like `pin_teacher`, of any student too: "family" is then the one that it is called as, and "student" is true."""
    model_pin = _pin_model(model, previous_pin, param_key, accepts_student=lambda _: True)
    return model_pin | {"student": detect_teacher_family(model_pin["unet"]) is None}


def _pin_model(
    model: ModelSource, previous_pin: dict, param_key: str, accepts_student: StudentFilter = no_students
) -> dict:
    try:
        return _PIN_FUNCTIONS[model.source](model, previous_pin, accepts_student)
    except UserError as error:  # which names the section `teacher`
        raise UserError(str(error).replace("teacher.", f"{param_key}.")) from None


def read_pin(path: Path) -> dict:
    """The pin that an earlier run has written to `path`; {} where there is nothing, or nothing whole."""
    try:
        content = read_json(path)
    except (OSError, UserError):
        return {}
    return content if isinstance(content, dict) else {}


def _pin_local_dir(teacher: ModelSource, _: dict, accepts_student: StudentFilter) -> dict:
    folder = Path(teacher.path)
    if not folder.is_dir():
        raise UserError(f"teacher.path: there is no folder {folder}; it should be a diffusers pipeline folder")
    return {"source": teacher.source, "path": teacher.path} | _pin_folder(folder, teacher.allow_pickle, accepts_student)


def _pin_hub(teacher: ModelSource, previous_pin: dict, accepts_student: StudentFilter) -> dict:
    assert teacher.id is not None  # which its section sees to
    same_revision = (previous_pin.get("id"), previous_pin.get("revision")) == (teacher.id, teacher.revision)
    patterns = hub.MODEL_PATTERNS + (hub.PICKLE_PATTERNS if teacher.allow_pickle else [])
    folder = hub.hub_snapshot(teacher.id, previous_pin["commit"] if same_revision else teacher.revision, patterns)
    location = {"source": "hub", "id": teacher.id, "revision": teacher.revision, "commit": folder.name}
    return location | _pin_folder(folder, teacher.allow_pickle, accepts_student)


def _pin_folder(folder: Path, allow_pickle: bool, accepts_student: StudentFilter) -> dict:
    description = describe_pipeline_dir(folder, accepts_student)
    for component, (library, _) in list_model_components(folder, description["family"]).items():
        check_weight_files(folder / component, allow_pickle, weights_stem(library))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in PINNED_SUFFIXES)
    return description | {"files": {path.relative_to(folder).as_posix(): sha256(path) for path in files}}


def _pin_file(teacher: ModelSource, previous_pin: dict, accepts_student: StudentFilter) -> dict:
    path = Path(teacher.path)
    if not path.is_file():
        raise UserError(f"teacher.path: there is no file {path}; it should be a .safetensors checkpoint")
    if path.suffix in PICKLE_SUFFIXES:
        if not teacher.allow_pickle:
            refuse_pickle(path)
        if teacher.config is None:
            raise UserError("teacher.config: a pickle cannot be looked into; name the folder of its configs here")
    if teacher.config and Path(teacher.config).is_dir():
        config, configs_dir = {"path": teacher.config}, Path(teacher.config)
    else:
        repo_id = teacher.config or _detect_config_repo(path)
        previous_config = previous_pin.get("config", {})
        revision = previous_config["commit"] if previous_config.get("id") == repo_id else "main"
        configs_dir = hub.hub_snapshot(repo_id, revision, hub.CONFIG_PATTERNS, param_key="teacher.config")
        config = {"id": repo_id, "commit": configs_dir.name}
    location = {"source": "file", "path": teacher.path, "config": config}
    return location | describe_pipeline_dir(configs_dir, accepts_student) | {"files": {path.name: sha256(path)}}


_PIN_FUNCTIONS = {"hub": _pin_hub, "file": _pin_file, "folder": _pin_local_dir, "bundled": _pin_local_dir}


def _detect_config_repo(path: Path) -> str:
    """The Hub id of the original whose shape the single file has, by the names of its text encoder's weights."""
    tensor_names = read_header(path)
    for prefix, repo_id in CONFIG_REPOS.items():
        if any(name.startswith(prefix) for name in tensor_names):
            return repo_id
    raise UserError(
        f"teacher.path: {path} is no Stable Diffusion checkpoint of one file: it has no text encoder of SD 1.x, 2.x or "
        "SDXL. A UNet alone will not do; of another layout, name the folder of its configs as teacher.config"
    )


def describe_pipeline_dir(folder: Path, accepts_student: StudentFilter = no_students) -> dict:
    """{"family", "prediction_type", "unet": config} by a pipeline folder's JSON files, all of which are checked."""
    family, unet, scheduler = read_pipeline_configs(folder, accepts_student)
    return {"family": family, "prediction_type": scheduler.get("prediction_type", "epsilon"), "unet": unet}
