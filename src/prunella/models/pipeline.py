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
from prunella.models.check import check_pipeline_dir, check_single_file
from prunella.models.components import (
    check_component_loads,
    detect_weights_dtype,
    load_component,
    name_folder_in_errors,
)
from prunella.models.configs import MODEL_COMPONENTS
from prunella.models.conversion import convert_pinned_file, resolve_configs_dir
from prunella.models.families import strip_private_keys
from prunella.params import StorageDtype
from prunella.storage.files import read_json

STORAGE_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def resolve_teacher_dir(pin_path: Path) -> Path:
    """The pipeline folder of the teacher that models/teacher.json pins; a single file is turned into one first."""
    return resolve_pinned_dir(json.loads(pin_path.read_text(encoding="utf-8")))


def resolve_pipeline_dir(dir_or_pin: Path) -> Path:
    """A pipeline folder itself, or the one that a file pins."""
    return dir_or_pin if dir_or_pin.is_dir() else resolve_teacher_dir(dir_or_pin)


def resolve_pinned_dir(teacher_pin: dict) -> Path:
    """The same, of what such a file holds."""
    return (
        convert_pinned_file(teacher_pin) if teacher_pin["source"] == "file" else _resolve_unconverted_dir(teacher_pin)
    )


def _resolve_unconverted_dir(teacher_pin: dict) -> Path:
    if teacher_pin["source"] == "hub":
        return hub.hub_snapshot(teacher_pin["id"], teacher_pin["commit"], hub.MODEL_PATTERNS, local_files_only=True)
    return Path(teacher_pin["path"])


def check_teacher_weights(teacher_pin: dict) -> None:
    """Check the weights of a teacher as `pin` gives it: names, shapes, finiteness, all by its configs.

    Raises UserError that names part or file, and tensor. Reads all weights once.
    """
    if teacher_pin["source"] == "file":
        check_single_file(Path(teacher_pin["path"]), resolve_configs_dir(teacher_pin), teacher_pin["family"])
    else:
        check_pipeline_dir(_resolve_unconverted_dir(teacher_pin), teacher_pin["family"])


def load_unet(folder: Path, device: str = "cpu", keep_dtype: bool = False) -> UNet2DConditionModel:
    """The UNet of a pipeline folder, in fp32; `keep_dtype` leaves it in its files' precision, mapped and not copied.

    Raises UserError where it cannot be loaded, or where its files lack a tensor.
    """
    with name_folder_in_errors(folder):  # where its headers cannot be read
        dtype = detect_weights_dtype(folder / "unet") if keep_dtype else torch.float32
    return load_component(UNet2DConditionModel, folder / "unet", torch_dtype=dtype).to(device)


def load_scheduler(folder: Path) -> DDPMScheduler:
    """The noise schedule that the folder's model was trained on. Raises UserError where it cannot be loaded."""
    with name_folder_in_errors(folder):
        return DDPMScheduler.from_pretrained(folder, subfolder="scheduler")


def load_pipeline(folder: Path, device: str = "cpu", **components: Any) -> DiffusionPipeline:
    """The pipeline as stock diffusers loads it, with no progress bars of its own; `components` as given (None: left
    out).

    Raises UserError where it cannot be loaded, or where the files of a part lack a tensor.
    """
    pipeline = _load_stock_pipeline(folder, **components).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def no_safety_checker(folder: Path) -> dict[str, Any]:
    """The arguments of `load_pipeline` that leave the safety checker of `folder` out, where it has one."""
    has_checker = "safety_checker" in read_json(folder / "model_index.json")
    return {"safety_checker": None, "requires_safety_checker": False} if has_checker else {}


def _load_stock_pipeline(folder: Path, **components: Any) -> DiffusionPipeline:
    """The pipeline that stock diffusers makes of the folder, once the parts that it loads itself are known to lack
    nothing."""
    with name_folder_in_errors(folder):
        index_entries = read_json(folder / "model_index.json").items()
        loaded_components = {
            component: value
            for component, value in index_entries
            if component in MODEL_COMPONENTS and component not in components
        }
        for component, (library, class_name) in loaded_components.items():
            if library and class_name:
                check_component_loads(folder / component, library, class_name)
        return DiffusionPipeline.from_pretrained(folder, **components)


def build_meta_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """The UNet of a config without weights, on the meta device, which takes neither memory nor first values."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def save_pipeline(
    base_dir: Path, unet: UNet2DConditionModel, out: Path, storage: StorageDtype, **text_encoders: Any
) -> None:
    """A stock pipeline folder at `out`: everything as in the folder `base_dir`, but for the UNet and given text
    encoders.

    UNet and VAE are stored as `storage` says; text encoders always in fp32, since stock loading keeps them in the
    stored dtype and would then mix dtypes. Written beside and renamed, so that `out` is whole or absent.
    """
    tmp_dir = out.with_name(out.name + ".half")
    shutil.rmtree(tmp_dir, ignore_errors=True)
    pipeline = _load_stock_pipeline(base_dir, unet=to_storage_dtype(unet, storage), **text_encoders)
    pipeline.register_modules(vae=to_storage_dtype(pipeline.vae, storage))
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(pipeline, name, None)) is not None:
            encoder.float()
    pipeline.save_pretrained(tmp_dir)
    shutil.rmtree(out, ignore_errors=True)
    tmp_dir.rename(out)


def save_unet(unet: UNet2DConditionModel, out: Path, storage: StorageDtype) -> None:
    """A UNet alone, for `UNet2DConditionModel.from_pretrained(out)`."""
    to_storage_dtype(unet, storage).save_pretrained(out)


def to_storage_dtype(model: Any, storage: StorageDtype) -> Any:
    """A copy of a model with contiguous tensors of the stored dtype.

    Raises UserError, naming the tensor, where a finite number would be stored as an infinite one.
    """
    with torch.device("meta"):
        copy = type(model).from_config(strip_private_keys(model.config))
    tensors = {
        name: value.detach().to("cpu", STORAGE_DTYPES[storage]).contiguous()
        for name, value in model.state_dict().items()
    }
    for name, value in tensors.items():
        if not value.isfinite().all() and model.state_dict()[name].isfinite().all():
            raise UserError(f"storage: {storage} cannot hold {name}, whose numbers are too large; fp32 can")
    copy.load_state_dict(tensors, strict=True, assign=True)
    return copy
