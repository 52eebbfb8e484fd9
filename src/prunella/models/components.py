"""Parts of a pipeline folder (UNet, VAE, text encoders), loaded so that nothing is missing in silence.

Left to themselves, transformers fills what a file lacks with random numbers, other ones at each loading, and says so in
a warning that nobody reads; diffusers leaves it empty, which fails later and elsewhere.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.utils import logging as diffusers_logging
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from prunella.errors import UserError
from prunella.models.weights import read_header

diffusers_logging.disable_progress_bar()  # of loading: a bar per folder says nothing
transformers_logging.disable_progress_bar()
LIBRARY_MODULES = {
    "stable_diffusion": "diffusers.pipelines.stable_diffusion"
}  # of libraries that are no packages of their own


def load_component(model_class: Any, folder: Path, **options: Any) -> Any:
    """The model of class `model_class` that a part's folder holds, as stock loading gives it with `options`.

    Raises UserError, naming folder and tensor, where the files lack a tensor or have one of another shape than the
    config says, and where loading fails.
    """
    with name_folder_in_errors(folder), _restore_default_dtype():
        # transformers raises for shapes without naming one of them, diffusers names it.
        shape_options = {"ignore_mismatched_sizes": True} if issubclass(model_class, PreTrainedModel) else {}
        model, info = model_class.from_pretrained(folder, output_loading_info=True, **shape_options, **options)
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder}: its weights lack {missing[0]} ({len(missing)} missing in all), which its config.json asks for"
        )
    for name, actual, expected in sorted(info["mismatched_keys"]):
        raise UserError(
            f"{folder}: {name} is of shape {tuple(actual)} in its weights, and {tuple(expected)} by its config.json"
        )
    return model


def detect_weights_dtype(model_dir: Path) -> torch.dtype:
    """The precision of a model folder's weights: fp16 or bf16 where all of them are, else fp32."""
    dtype_names = {entry["dtype"] for path in model_dir.glob("*.safetensors") for entry in read_header(path).values()}
    return (
        {"F16": torch.float16, "BF16": torch.bfloat16}[dtype_names.pop()]
        if dtype_names in ({"F16"}, {"BF16"})
        else torch.float32
    )


def check_component_loads(folder: Path, library: str, class_name: str) -> None:
    """Load a part of class `class_name` onto the meta device, where only names and shapes are looked at.

    As `load_component`.
    """
    module = importlib.import_module(LIBRARY_MODULES.get(library, library))
    model_class = getattr(module, class_name, None)
    if not (isinstance(model_class, type) and issubclass(model_class, ModelMixin | PreTrainedModel)):
        raise UserError(f"{folder}: is a {class_name} of {library}, which is no model that is known there")
    # In another precision than its files' diffusers would convert what it then lets go of: half a minute for SDXL.
    options = {"torch_dtype": detect_weights_dtype(folder)} if issubclass(model_class, ModelMixin) else {}
    load_component(model_class, folder, device_map={"": "meta"}, **options)


@contextmanager
def _restore_default_dtype() -> Iterator[None]:
    """Put torch's default dtype back: diffusers leaves it changed where building a model fails."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def name_folder_in_errors(folder: Path) -> Iterator[None]:
    """Turns what loading raises for a broken folder into one line that names the folder."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of hostile configs and files anything comes out of the libraries
        reason = " ".join(str(error).split())[:400]
        raise UserError(f"{folder}: cannot be loaded: {type(error).__name__}: {reason}") from error
