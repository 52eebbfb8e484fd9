"""Whether a teacher's weights are what its configs say: every tensor there, of the right shape, and finite.

Names and shapes are compared by loading each part onto the meta device, which reads headers only; for finiteness the
weights are read once, mapped, at the disk's speed (see docs/students.md for what it takes).
"""

from pathlib import Path

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from prunella.errors import UserError
from prunella.models.components import check_loads, named
from prunella.models.configs import models, stem
from prunella.models.weights import PICKLES, check_finite, check_part, header, not_finite

# What a checkpoint of one file holds beside (EMA, optimizer) is not taken, and need not be finite.
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.1.model.")  # of SD 2.x, of SDXL
CONVERTED = {"UNet2DConditionModel": convert_ldm_unet_checkpoint, "AutoencoderKL": convert_ldm_vae_checkpoint}
TAKEN = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.", "conditioner.")


def check_folder(folder: Path, family: str) -> None:
    """Check all parts of a pipeline folder of the family.

    Raises UserError that names part or file, and tensor, where one is missing, of another shape, or not finite.
    """
    parts = models(folder, family)
    with named(folder):  # what has no weights: schedulers and tokenizers
        diffusers.DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        diffusers.DiffusionPipeline.from_pretrained(folder, **dict.fromkeys(parts))
    for part, (library, kind) in parts.items():
        files = check_part(folder / part, True, stem(library))  # pinning has refused pickles that are not allowed
        check_loads(folder / part, library, kind)
        for path in files:
            check_numbers(path)


def check_numbers(path: Path, taken: tuple[str, ...] = ("",)) -> None:
    """Raises UserError where a tensor whose name begins with one of `taken` holds NaN or infinite numbers."""
    if path.suffix not in PICKLES:
        check_finite(path, lambda name: name.startswith(taken))
        return
    for name, value in _pickled(path, "cpu").items():
        if value.is_floating_point() and name.startswith(taken):
            finite = int(value.isfinite().sum())
            if finite < value.numel():
                raise UserError(not_finite(path, name, value.numel() - finite, value.numel()))


def check_single(path: Path, configs: Path, family: str) -> None:
    """Check a checkpoint of one file against the configs of a pipeline folder. As `check_folder`."""
    with torch.device("meta"), named(path):
        content = _empty(path)
        for part, (_, kind) in models(configs, family).items():
            if part in ("unet", "vae", "text_encoder", "text_encoder_2"):
                _check_names(path, part, *_converted(content, configs / part, kind))
    check_numbers(path, TAKEN)


def _empty(path: Path) -> dict[str, Tensor]:
    """The file's tensors by name, of their shapes, on the meta device."""
    if path.suffix not in PICKLES:
        return {name: torch.empty(entry["shape"], device="meta") for name, entry in header(path).items()}
    return _pickled(path, "meta")


def _pickled(path: Path, device: str) -> dict[str, Tensor]:
    with named(path):
        content = torch.load(path, device, weights_only=True, mmap=True)
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _converted(content: dict[str, Tensor], config: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a part needs by its config, and what diffusers makes of the file's tensors; all on the meta device."""
    if kind in CONVERTED:
        known = getattr(diffusers, kind)
        made = CONVERTED[kind](dict(content), known.load_config(config))
        return known.from_config(known.load_config(config)).state_dict(), made
    known = getattr(transformers, kind)
    model = known(known.config_class.from_pretrained(config))
    places = [prefix for prefix in OPEN_CLIP if any(name.startswith(prefix) for name in content)]
    # SDXL has CLIP's own layout for its first encoder, and OpenCLIP's for the second.
    if places and (config.name == "text_encoder_2") == (places[0] == OPEN_CLIP[1]):
        made = convert_open_clip_checkpoint(model, content, places[0])
    else:
        made = convert_ldm_clip_checkpoint(content)
    if not hasattr(model, "text_model"):
        made = {name.removeprefix("text_model."): value for name, value in made.items()}
    return model.state_dict(), made


def _check_names(path: Path, part: str, needed: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    if missing := sorted(needed.keys() - there.keys()):
        raise UserError(
            f"{path}: lacks the {part}'s {missing[0]} ({len(missing)} missing in all), which its config.json asks for"
        )
    for name, value in needed.items():
        if there[name].shape != value.shape:
            raise UserError(
                f"{path}: the {part}'s {name} is of shape {tuple(there[name].shape)} there, and {tuple(value.shape)} "
                "by its config.json"
            )
