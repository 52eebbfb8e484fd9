"""Teachers: where a pinned one is, and how parts of a diffusers pipeline folder are loaded and saved.

A finished model of Prunella's is such a folder too, so everything here serves students as well.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel

from prunella.errors import UserError
from prunella.models import hub
from prunella.models.check import check_folder, check_single
from prunella.models.components import check_loads, load_part, named, stored_dtype
from prunella.models.configs import MODELS
from prunella.models.conversion import configs_folder, converted_folder
from prunella.models.families import plain
from prunella.params import Storage
from prunella.storage.files import read_json

STORED = {"fp16": torch.float16, "fp32": torch.float32}


def teacher_folder(pinned: Path) -> Path:
    """The pipeline folder of the teacher that models/teacher.json pins; a single file is turned into one first."""
    return pinned_folder(json.loads(pinned.read_text(encoding="utf-8")))


def located(model: Path) -> Path:
    """A pipeline folder itself, or the one that a file pins."""
    return model if model.is_dir() else teacher_folder(model)


def pinned_folder(known: dict) -> Path:
    """The same, of what such a file holds."""
    return converted_folder(known) if known["source"] == "file" else _folder(known)


def _folder(known: dict) -> Path:
    if known["source"] == "hub":
        return hub.snapshot(known["id"], known["commit"], hub.MODEL, cached=True)
    return Path(known["path"])


def check_teacher(known: dict) -> None:
    """Check the weights of a teacher as `pin` gives it: names, shapes, finiteness, all by its configs.

    Raises UserError that names part or file, and tensor. Reads all weights once.
    """
    if known["source"] == "file":
        check_single(Path(known["path"]), configs_folder(known), known["family"])
    else:
        check_folder(_folder(known), known["family"])


def load_unet(folder: Path, device: str = "cpu", as_stored: bool = False) -> UNet2DConditionModel:
    """The UNet of a pipeline folder, in fp32; `as_stored` leaves it in its files' precision, mapped and not copied.

    Raises UserError where it cannot be loaded, or where its files lack a tensor.
    """
    with named(folder):  # where its headers cannot be read
        dtype = stored_dtype(folder / "unet") if as_stored else torch.float32
    return load_part(UNet2DConditionModel, folder / "unet", torch_dtype=dtype).to(device)


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule that the folder's model was trained on. Raises UserError where it cannot be loaded."""
    with named(folder):
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler")


def load_pipeline(folder: Path, device: str = "cpu", **parts: Any) -> DiffusionPipeline:
    """The pipeline as stock diffusers loads it, with no progress bars of its own; `parts` as given (None: left out).

    Raises UserError where it cannot be loaded, or where the files of a part lack a tensor.
    """
    pipeline = _stock(folder, **parts).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def without_checker(folder: Path) -> dict[str, Any]:
    """What `load_pipeline` is given to leave the safety checker of `folder` out, where it has one."""
    checked = "safety_checker" in read_json(folder / "model_index.json")
    return {"safety_checker": None, "requires_safety_checker": False} if checked else {}


def _stock(folder: Path, **parts: Any) -> DiffusionPipeline:
    """What stock diffusers makes of the folder, once the parts that it loads itself are known to lack nothing."""
    with named(folder):
        listed = read_json(folder / "model_index.json").items()
        there = {part: value for part, value in listed if part in MODELS and part not in parts}
        for part, (library, kind) in there.items():
            if library and kind:
                check_loads(folder / part, library, kind)
        return DiffusionPipeline.from_pretrained(folder, **parts)


def empty_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """The UNet of a config without weights, on the meta device, which takes neither memory nor first values."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def save_pipeline(origin: Path, unet: UNet2DConditionModel, out: Path, storage: Storage, **encoders: Any) -> None:
    """A stock pipeline folder at `out`: everything as in the folder `origin`, but for the UNet and given text encoders.

    UNet and VAE are stored as `storage` says; text encoders always in fp32, since stock loading keeps them in the
    stored dtype and would then mix dtypes. Written beside and renamed, so that `out` is whole or absent.
    """
    half = out.with_name(out.name + ".half")
    shutil.rmtree(half, ignore_errors=True)
    pipeline = _stock(origin, unet=stored(unet, storage), **encoders)
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


def stored(model: Any, storage: Storage) -> Any:
    """A copy of a model with contiguous tensors of the stored dtype.

    Raises UserError, naming the tensor, where a finite number would be stored as an infinite one.
    """
    with torch.device("meta"):
        copy = type(model).from_config(plain(model.config))
    tensors = {
        name: value.detach().to("cpu", STORED[storage]).contiguous() for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        if not value.isfinite().all() and model.state_dict()[name].isfinite().all():
            raise UserError(f"storage: {storage} cannot hold {name}, whose numbers are too large; fp32 can")
    copy.load_state_dict(tensors, strict=True, assign=True)
    return copy
