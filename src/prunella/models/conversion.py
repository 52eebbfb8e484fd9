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
from prunella.models.check import check_folder, check_single
from prunella.models.components import named
from prunella.models.families import FAMILIES
from prunella.models.weights import header
from prunella.storage.files import atomic_write_text, json_digest, sha256

NOTE = "converted.json"  # in a whole folder: the size of each file, in bytes


def converted_folder(pinned: dict) -> Path:
    """The pipeline folder of a pinned single file; made where it is not there yet.

    UNet and VAE keep the file's precision, text encoders are stored in fp32, as in every folder of ours. Raises
    UserError where the file is not the pinned one, lacks a tensor that its configs ask for, or holds NaN.
    """
    path = Path(pinned["path"])
    (expected,) = pinned["files"].values()
    # Of the same file with other configs another pipeline is made.
    name = json_digest([expected, *(pinned[key] for key in ("config", "prediction_type", "unet"))])
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "work" / "teachers" / name
    if _whole(folder):
        return folder
    with _locked(folder):
        if not _whole(folder):  # another process may have made it meanwhile
            if not path.is_file() or sha256(path) != expected:
                raise UserError(f"teacher.path: {path} is not the file that was pinned; run the teacher stage again")
            _convert(path, configs_folder(pinned), pinned["family"], folder)
    return folder


def configs_folder(pinned: dict) -> Path:
    """Where the configs and tokenizers of a pinned single file are."""
    config = pinned["config"]
    return Path(config["path"]) if "path" in config else hub.snapshot(config["id"], config["commit"], hub.CONFIGS, True)


def _whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        return sizes == _sizes(folder)
    except (OSError, ValueError):
        return False


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NOTE)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else makes the folder while this lasts; whoever dies lets go of it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _convert(path: Path, configs: Path, family: str, folder: Path) -> None:
    for left in folder.parent.glob(f"{folder.name}.half-*"):  # by those that were killed: the lock is ours
        shutil.rmtree(left)
    check_single(path, configs, family)  # names what diffusers' loader would only stumble over
    half = folder.with_name(f"{folder.name}.half-{os.getpid()}")
    _loaded(path, configs, FAMILIES[family].pipeline).save_pretrained(half)
    check_folder(half, family)  # of a file in fp16 and fp32 the halves may not hold what it holds
    shutil.rmtree(folder, ignore_errors=True)  # without a note, or of other sizes than it says
    half.rename(folder)
    atomic_write_text(folder / NOTE, json.dumps(_sizes(folder)))


def _loaded(path: Path, configs: Path, kind: str) -> diffusers.DiffusionPipeline:
    """The pipeline of class `kind` that diffusers makes of a file and the configs of a folder."""
    with named(path):
        pipeline = getattr(diffusers, kind).from_single_file(
            str(path), config=str(configs), local_files_only=True, torch_dtype=torch.float32
        )
    if path.suffix == ".safetensors" and "F16" in {entry["dtype"] for entry in header(path).values()}:
        pipeline.unet.half()
        pipeline.vae.half()
    return pipeline
