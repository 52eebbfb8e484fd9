"""Teachers: where a pinned one is, and how parts of a diffusers pipeline folder are loaded and saved.

A finished model of Prunella's is such a folder too, so everything here serves students as well.
"""

import json
import shutil
from pathlib import Path

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from prunella.errors import UserError
from prunella.models import hub
from prunella.models.conversion import converted_folder
from prunella.models.families import plain
from prunella.models.weights import header
from prunella.params import Storage

diffusers_logging.disable_progress_bar()  # of loading: a bar per folder says nothing
transformers_logging.disable_progress_bar()
STORED = {"fp16": torch.float16, "fp32": torch.float32}


def teacher_folder(pinned: Path) -> Path:
    """The pipeline folder of the teacher that models/teacher.json pins; a single file is turned into one first."""
    known = json.loads(pinned.read_text())
    if known["source"] == "hub":
        return hub.snapshot(known["id"], known["commit"], hub.MODEL, cached=True)
    return converted_folder(known) if known["source"] == "file" else Path(known["path"])


def load_unet(folder: Path, device: str = "cpu", as_stored: bool = False) -> UNet2DConditionModel:
    """The UNet of a pipeline folder, in fp32; `as_stored` leaves it in its files' precision, mapped and not copied."""
    dtype = stored_dtype(folder / "unet") if as_stored else torch.float32
    with _said(folder):
        return UNet2DConditionModel.from_pretrained(folder, subfolder="unet", torch_dtype=dtype).to(device)


def stored_dtype(part: Path) -> torch.dtype:
    """The precision of a model folder's weights: fp16 or bf16 where all of them are, else fp32."""
    kinds = {entry["dtype"] for path in part.glob("*.safetensors") for entry in header(path).values()}
    return (
        {"F16": torch.float16, "BF16": torch.bfloat16}[kinds.pop()] if kinds in ({"F16"}, {"BF16"}) else torch.float32
    )


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule that the folder's model was trained on."""
    with _said(folder):
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler")


def load_pipeline(folder: Path, device: str = "cpu", **parts) -> DiffusionPipeline:
    """The pipeline as stock diffusers loads it, with no progress bars of its own; `parts` as given (None: left out)."""
    with _said(folder):
        pipeline = DiffusionPipeline.from_pretrained(folder, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


class _said:
    """Turns what loading raises for a broken folder into one line that names the folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, (OSError, SafetensorError, ValueError)):
            raise UserError(f"{self.folder}: cannot be loaded: {str(error).splitlines()[0]}") from error


def save_pipeline(origin: Path, unet: UNet2DConditionModel, out: Path, storage: Storage) -> None:
    """A stock pipeline folder at `out`: everything as in the folder `origin`, but for the UNet.

    UNet and VAE are stored as `storage` says; text encoders always in fp32, since stock loading keeps them in the
    stored dtype and would then mix dtypes. Written beside and renamed, so that `out` is whole or absent.
    """
    half = out.with_name(out.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    with _said(origin):
        pipeline = DiffusionPipeline.from_pretrained(origin, unet=stored(unet, storage))
    pipeline.register_modules(vae=stored(pipeline.vae, storage))
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(pipeline, name, None)) is not None:
            encoder.float()
    pipeline.save_pretrained(half)
    shutil.rmtree(out, ignore_errors=True)
    half.rename(out)


def save_unet(unet: UNet2DConditionModel, out: Path, storage: Storage) -> None:
    """A UNet alone, for `UNet2DConditionModel.from_pretrained(out)`."""
    stored(unet, storage).save_pretrained(out)


def stored(model, storage: Storage):
    """A copy of a model with contiguous tensors of the stored dtype."""
    with torch.device("meta"):
        copy = type(model).from_config(plain(model.config))
    tensors = {
        name: value.detach().to("cpu", STORED[storage]).contiguous() for name, value in model.state_dict().items()
    }
    copy.load_state_dict(tensors, strict=True, assign=True)
    return copy
