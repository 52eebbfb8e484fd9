"""Checkpoints of one file, turned by diffusers' own loader into a pipeline folder once, and kept in `work/`.

Two stages, or all processes of one, may ask for the same folder at once: the first makes it, the others wait. A folder
counts as whole by its note alone, which is written last and says how large each file is.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import torch

from prunella.errors import UserError
from prunella.models import hub
from prunella.models.check import check_pipeline_dir, check_single_file
from prunella.models.components import name_folder_in_errors
from prunella.models.families import FAMILIES
from prunella.models.weights import read_header
from prunella.storage.files import atomic_write_text, json_digest, sha256

SIZES_FILE = "converted.json"  # in a whole folder: the size of each file, in bytes


def convert_pinned_file(teacher_pin: dict) -> Path:
    """The pipeline folder of a pinned single file; made where it is not there yet.

    UNet and VAE keep the file's precision, text encoders are stored in fp32, as in every folder of ours. Raises
    UserError where the file is not the pinned one, lacks a tensor that its configs ask for, or holds NaN.
    """
    path = Path(teacher_pin["path"])
    (expected,) = teacher_pin["files"].values()
    # Of the same file with other configs another pipeline is made.
    name = json_digest([expected, *(teacher_pin[key] for key in ("config", "prediction_type", "unet"))])
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "work" / "teachers" / name
    if _is_complete(folder):
        return folder
    with _lock_conversion(folder):
        if not _is_complete(folder):  # another process may have made it meanwhile
            if not path.is_file() or sha256(path) != expected:
                raise UserError(f"teacher.path: {path} is not the file that was pinned; run the teacher stage again")
            _convert_to_folder(path, resolve_configs_dir(teacher_pin), teacher_pin["family"], folder)
    return folder


def resolve_configs_dir(teacher_pin: dict) -> Path:
    """The folder of the configs and tokenizers of a pinned single file."""
    config = teacher_pin["config"]
    return (
        Path(config["path"])
        if "path" in config
        else hub.hub_snapshot(config["id"], config["commit"], hub.CONFIG_PATTERNS, True)
    )


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / SIZES_FILE).read_text(encoding="utf-8"))
        return sizes == _read_file_sizes(folder)
    except (OSError, ValueError):
        return False


def _read_file_sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SIZES_FILE)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@contextmanager
def _lock_conversion(folder: Path) -> Iterator[None]:
    """Nobody else makes the folder while this lasts; whoever dies lets go of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert_to_folder(path: Path, configs_dir: Path, family: str, folder: Path) -> None:
    for leftover in folder.parent.glob(f"{folder.name}.half-*"):  # by those that were killed: the lock is ours
        shutil.rmtree(leftover)
    check_single_file(path, configs_dir, family)  # names what diffusers' loader would only stumble over
    tmp_dir = folder.with_name(f"{folder.name}.half-{os.getpid()}")
    _load_single_file(path, configs_dir, FAMILIES[family].pipeline_class).save_pretrained(tmp_dir)
    check_pipeline_dir(tmp_dir, family)  # of a file in fp16 and fp32 the halves may not hold what it holds
    shutil.rmtree(folder, ignore_errors=True)  # without a note, or of other sizes than it says
    tmp_dir.rename(folder)
    atomic_write_text(folder / SIZES_FILE, json.dumps(_read_file_sizes(folder)))


def _load_single_file(path: Path, configs_dir: Path, class_name: str) -> diffusers.DiffusionPipeline:
    """The pipeline of class `class_name` that diffusers makes of a file and the configs of a folder."""
    with name_folder_in_errors(path):
        pipeline = getattr(diffusers, class_name).from_single_file(
            str(path), config=str(configs_dir), local_files_only=True, torch_dtype=torch.float32
        )
    if path.suffix == ".safetensors" and "F16" in {entry["dtype"] for entry in read_header(path).values()}:
        pipeline.unet.half()
        pipeline.vae.half()
    return pipeline
