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
from prunella.models.weights import header

diffusers_logging.disable_progress_bar()  # of loading: a bar per folder says nothing
transformers_logging.disable_progress_bar()
MODULES = {"stable_diffusion": "diffusers.pipelines.stable_diffusion"}  # of libraries that are no packages of their own


def load_part(kind: Any, folder: Path, **options: Any) -> Any:
    """The model of class `kind` that a part's folder holds, as stock loading gives it with `options`.

    Raises UserError, naming folder and tensor, where the files lack a tensor or have one of another shape than the
    config says, and where loading fails.
    """
    with named(folder), _default_dtype():
        # transformers raises for shapes without naming one of them, diffusers names it.
        lenient = {"ignore_mismatched_sizes": True} if issubclass(kind, PreTrainedModel) else {}
        model, info = kind.from_pretrained(folder, output_loading_info=True, **lenient, **options)
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{folder}: its weights lack {missing[0]} ({len(missing)} missing in all), which its config.json asks for"
        )
    for name, there, expected in sorted(info["mismatched_keys"]):
        raise UserError(
            f"{folder}: {name} is of shape {tuple(there)} in its weights, and {tuple(expected)} by its config.json"
        )
    return model


def stored_dtype(part: Path) -> torch.dtype:
    """The precision of a model folder's weights: fp16 or bf16 where all of them are, else fp32."""
    kinds = {entry["dtype"] for path in part.glob("*.safetensors") for entry in header(path).values()}
    return (
        {"F16": torch.float16, "BF16": torch.bfloat16}[kinds.pop()] if kinds in ({"F16"}, {"BF16"}) else torch.float32
    )


def check_loads(folder: Path, library: str, name: str) -> None:
    """Load a part of class `name` onto the meta device, where only names and shapes are looked at. As `load_part`."""
    module = importlib.import_module(MODULES.get(library, library))
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel)):
        raise UserError(f"{folder}: is a {name} of {library}, which is no model that is known there")
    # In another precision than its files' diffusers would convert what it then lets go of: half a minute for SDXL.
    options = {"torch_dtype": stored_dtype(folder)} if issubclass(kind, ModelMixin) else {}
    load_part(kind, folder, device_map={"": "meta"}, **options)


@contextmanager
def _default_dtype() -> Iterator[None]:
    """Put torch's default dtype back: diffusers leaves it changed where building a model fails."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Turns what loading raises for a broken folder into one line that names the folder."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # of hostile configs and files anything comes out of the libraries
        said = " ".join(str(error).split())[:400]
        raise UserError(f"{folder}: cannot be loaded: {type(error).__name__}: {said}") from error
