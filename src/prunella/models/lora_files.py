"""LoRA files of Stable Diffusion, read from every layout that is about, written as stock diffusers reads them.

Layouts: diffusers' (`unet.MODULE.lora_A.weight`, and the older `unet.MODULE.lora.down.weight`), peft's
(`base_model.model.MODULE.lora_A.weight`, with its settings in `adapter_config.json` beside) and kohya's
(`lora_unet_MODULE.lora_down.weight` with `.alpha`, of SDXL also in the original's names of blocks). The conversion of
older names is diffusers' own business (`diffusers.loaders`).

An update of a module is up · down, added to its weight; scales such as alpha / rank are in `up` here.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunella.errors import UserError
from prunella.storage.files import parse_json, read_json

UNET = "unet"
LORA_COMPONENTS = (UNET, "text_encoder", "text_encoder_2")
PEFT_PREFIX = "base_model.model."
METADATA_KEY = "lora_adapter_metadata"  # where diffusers notes rank and alpha
LORA_SIDES = {"down": "A", "up": "B"}
UNSUPPORTED_ADAPTERS = ("hada_", "lokr_", "oft_", "boft_", "glora_")  # adapters that are no product of two matrices
DORA_KEYS = ("dora_scale", "lora_magnitude_vector")


ARITHMETIC_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class LoraUpdate(NamedTuple):
    """The change of one module: down (rank first) and up (rank second), conv kernels after them; up is scaled."""

    down: Tensor
    up: Tensor


LoraUpdates = dict[str, LoraUpdate]  # by the module's name in diffusers' UNet, or in transformers' text encoder


def read_lora(file: Path, unet: UNet2DConditionModel) -> dict[str, LoraUpdates]:
    """{part: updates} of a LoRA that was made for a model with this UNet, of which only names are asked.

    Raises UserError, naming file and tensor, for what is no LoRA, one of another kind, or a damaged one.
    """
    tensors, settings = _read_tensors(file)
    _check_numbers(file, tensors)
    for markers, reason in ((DORA_KEYS, "a DoRA, whose magnitudes are those of the weights that it was made for"),
                        (UNSUPPORTED_ADAPTERS, "no LoRA but another adapter of LyCORIS")):  # fmt: skip
        if name := next((name for name in tensors if any(marker in name for marker in markers)), None):
            raise UserError(f"{file}: {reason} ({name}); only plain LoRAs can be carried")
    try:
        state_dict, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=unet.config)
    except (ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{file}: no LoRA of Stable Diffusion 1.x, 2.x or SDXL in a known layout: {reason}") from None
    updates_by_component = {
        component: _pair_matrices(component, state_dict, alphas or {}, settings, file) for component in LORA_COMPONENTS
    }
    if not any(updates_by_component.values()):
        raise UserError(
            f"{file}: no LoRA of a Stable Diffusion: its names are such as {min(tensors, default='(none)')!r}"
        )
    return {component: updates for component, updates in updates_by_component.items() if updates}


def _check_numbers(file: Path, tensors: dict[str, Tensor]) -> None:
    """Raises UserError for a tensor that cannot be computed with: of whole numbers or 8 bits, empty, or not finite."""
    for name, tensor in tensors.items():
        if tensor.dtype not in ARITHMETIC_DTYPES and not name.endswith(".alpha"):  # which may be a whole number
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{file}: {name} is of {kind}; a LoRA's tensors are of float32, float16 or bfloat16")
        if not tensor.numel():
            raise UserError(f"{file}: {name} is empty, of shape {tuple(tensor.shape)}; a LoRA has a rank of 1 at least")
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{file}: {name} has numbers that are NaN or infinite; the LoRA is damaged")


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, peft's names as diffusers' ones, and what is noted of rank and alpha."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; it should be a LoRA in safetensors")
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as handle:
            metadata = (handle.metadata() or {}).get(METADATA_KEY)
    except SafetensorError as error:
        raise UserError(f"{file}: no safetensors file: {error}") from None
    settings = parse_json(metadata.encode(), f"{file}: {METADATA_KEY}") if metadata else {}
    if any(name.startswith(PEFT_PREFIX) for name in tensors):
        adapter_config_path = file.with_name("adapter_config.json")
        if not adapter_config_path.is_file():
            raise UserError(f"{file}: peft's layout needs adapter_config.json beside it, which says alpha and rank")
        settings = {f"{UNET}.{name}": value for name, value in read_json(adapter_config_path).items()}
        tensors = {f"{UNET}.{name.removeprefix(PEFT_PREFIX)}": value for name, value in tensors.items()}
    return tensors, settings


def _pair_matrices(
    component: str, state_dict: dict[str, Any], alphas: dict[str, Any], settings: dict[str, Any], file: Path
) -> LoraUpdates:
    """A part's updates, scaled."""
    weights, scales = (_to_peft_names(component, entries) for entries in (state_dict, alphas))
    updates: LoraUpdates = {}
    for name, down in weights.items():
        module, suffix, _ = name.partition(".lora_A")
        if not suffix:
            continue
        up = weights.get(f"{module}.lora_B{name.removeprefix(f'{module}.lora_A')}")
        if up is None or up.shape[1] != down.shape[0]:
            mismatch = "without the second matrix" if up is None else f"of ranks {down.shape[0]} and {up.shape[1]}"
            raise UserError(f"{file}: {component} {module} has two matrices that do not fit: {mismatch}")
        _check_fit(component, module, down, up, file)
        alpha = next((float(scales[name]) for name in (f"{module}.alpha", f"{name}.alpha") if name in scales), None)
        scale = (
            _scale_from_settings(component, module, down.shape[0], settings) if alpha is None else alpha / down.shape[0]
        )
        updates[module] = LoraUpdate(down, up * scale)
    return updates


def _check_fit(component: str, module: str, down: Tensor, up: Tensor, file: Path) -> None:
    """Raises UserError where only one of two matrices has a kernel: one is a linear layer's, one a convolution's."""
    if down.dim() != up.dim():
        raise UserError(
            f"{file}: {component} {module} has matrices of {down.dim()} and {up.dim()} dimensions, of a convolution "
            "and a linear layer"
        )


def _to_peft_names(component: str, entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of a part under peft's names, without the part's."""
    component_entries = {
        name.removeprefix(f"{component}."): value for name, value in entries.items() if name.startswith(f"{component}.")
    }
    component_entries = {re.sub(r"\.processor\.", ".", name): value for name, value in component_entries.items()}
    if component == UNET:
        return convert_unet_state_dict_to_peft(component_entries)
    return {_to_peft_text_name(name): value for name, value in component_entries.items()}


def _to_peft_text_name(name: str) -> str:
    """peft's name of what kohya's and older files say of a text encoder, as diffusers has read it."""
    name = re.sub(r"\.to_(q|k|v|out)_lora\.", r".\1_proj.lora.", name)
    return re.sub(r"\.lora(_linear_layer)?\.(down|up)\b", lambda match: f".lora_{LORA_SIDES[match[2]]}", name)


def _scale_from_settings(component: str, module: str, rank: int, settings: dict[str, Any]) -> float:
    """alpha / rank (rsLoRA: alpha over its root) as the settings have it; 1 where they say nothing."""
    alpha = settings.get(f"{component}.lora_alpha")
    if alpha is None:
        return 1.0
    pattern = settings.get(f"{component}.alpha_pattern") or {}
    alpha = next((value for name, value in pattern.items() if module == name or module.endswith(f".{name}")), alpha)
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"the LoRA's settings: lora_alpha of {component} {module} is {alpha!r}, which is no number")
    return float(alpha) / (math.sqrt(rank) if settings.get(f"{component}.use_rslora") else rank)


def write_lora(file: Path, updates_by_component: dict[str, LoraUpdates]) -> None:
    """Write updates as stock `load_lora_weights` reads them: without alphas, which means a scale of 1."""
    tensors: dict[str, Tensor] = {}
    for component, updates in updates_by_component.items():
        for module, (down, up) in updates.items():
            tensors |= {f"{component}.{module}.lora_A.weight": down, f"{component}.{module}.lora_B.weight": up}
    tmp_path = file.with_suffix(".half")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path, {"format": "pt"})
    tmp_path.replace(file)
