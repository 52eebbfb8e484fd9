"""Checkpoints of one file, turned by diffusers' own loader into a pipeline folder once, and kept in `work/`."""

import os
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from prunella.errors import UserError
from prunella.files import json_digest, sha256
from prunella.models import hub
from prunella.models.weights import header

PIPELINES = {"sd": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


def converted_folder(pinned: dict) -> Path:
    """The pipeline folder of a pinned single file; made where it is not there yet.

    UNet and VAE keep the file's precision, text encoders are stored in fp32, as in every folder of ours.
    """
    path = Path(pinned["path"])
    (expected,) = pinned["files"].values()
    # Of the same file with other configs another pipeline is made.
    name = json_digest([expected, *(pinned[key] for key in ("config", "prediction_type", "unet"))])
    folder = Path(os.environ.get("DVC_ROOT", ".")) / "work" / "teachers" / name
    if folder.is_dir():
        return folder
    if not path.is_file() or sha256(path) != expected:
        raise UserError(f"teacher.path: {path} is not the file that was pinned; run the teacher stage again")
    config = pinned["config"]
    configs = (
        Path(config["path"]) if "path" in config else hub.snapshot(config["id"], config["commit"], hub.CONFIGS, True)
    )
    pipeline = _loaded(path, configs, PIPELINES[pinned["family"]])
    half = folder.with_name(folder.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    pipeline.save_pretrained(half)
    half.rename(folder)
    return folder


def _loaded(path: Path, configs: Path, kind: type):
    try:
        pipeline = kind.from_single_file(
            str(path), config=str(configs), local_files_only=True, torch_dtype=torch.float32
        )
    except (ValueError, KeyError, RuntimeError, OSError) as error:
        raise UserError(
            f"{path}: cannot be loaded with the configs of {configs}: {str(error).splitlines()[0]}"
        ) from error
    if path.suffix == ".safetensors" and "F16" in {entry["dtype"] for entry in header(path).values()}:
        pipeline.unet.half()
        pipeline.vae.half()
    return pipeline
