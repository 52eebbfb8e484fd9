"""LoRA files of Stable Diffusion, read from every layout that is about, written as stock diffusers reads them.

Layouts: diffusers' (`unet.MODULE.lora_A.weight`, and the older `unet.MODULE.lora.down.weight`), peft's
(`base_model.model.MODULE.lora_A.weight`, with its settings in `adapter_config.json` beside) and kohya's
(`lora_unet_MODULE.lora_down.weight` with `.alpha`, of SDXL also in the original's names of blocks). What the names of
kohya's and of older files become is diffusers' own business (`diffusers.loaders`).

An update of a module is up · down, added to its weight; scales such as alpha / rank are in `up` here.
"""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunella.errors import UserError
from prunella.storage.files import parse_json, read_json

UNET = "unet"
PARTS = (UNET, "text_encoder", "text_encoder_2")
PEFT = "base_model.model."
METADATA = "lora_adapter_metadata"  # where diffusers notes rank and alpha
SIDES = {"down": "A", "up": "B"}
OTHERS = ("hada_", "lokr_", "oft_", "boft_", "glora_")  # adapters that are no product of two matrices
DORA = ("dora_scale", "lora_magnitude_vector")


class Update(NamedTuple):
    """The change of one module: down (rank first) and up (rank second), conv kernels after them; up is scaled."""

    down: Tensor
    up: Tensor


Updates = dict[str, Update]  # by the module's name in diffusers' UNet, or in transformers' text encoder


def read_lora(file: Path, unet: UNet2DConditionModel) -> dict[str, Updates]:
    """{part: updates} of a LoRA that was made for a model with this UNet, of which only names are asked.

    Raises UserError, naming the file, for what is no LoRA or one of another kind.
    """
    tensors, settings = _opened(file)
    for kinds, said in ((DORA, "a DoRA, whose magnitudes are those of the weights that it was made for"),
                        (OTHERS, "no LoRA but another adapter of LyCORIS")):  # fmt: skip
        if name := next((name for name in tensors if any(kind in name for kind in kinds)), None):
            raise UserError(f"{file}: {said} ({name}); only plain LoRAs can be carried")
    try:
        named, alphas = StableDiffusionXLPipeline.lora_state_dict(dict(tensors), unet_config=unet.config)
    except (ValueError, KeyError, IndexError) as error:
        said = " ".join(str(error).split())[:120]
        raise UserError(f"{file}: no LoRA of Stable Diffusion 1.x, 2.x or SDXL in a known layout: {said}") from None
    found = {part: _updates(part, named, alphas or {}, settings, file) for part in PARTS}
    if not any(found.values()):
        raise UserError(
            f"{file}: no LoRA of a Stable Diffusion: its names are such as {min(tensors, default='(none)')!r}"
        )
    return {part: updates for part, updates in found.items() if updates}


def _opened(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, peft's names as diffusers' ones, and what is noted of rank and alpha."""
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; it should be a LoRA in safetensors")
    try:
        tensors = load_file(file)
        with safe_open(file, "pt") as opened:
            noted = (opened.metadata() or {}).get(METADATA)
    except SafetensorError as error:
        raise UserError(f"{file}: no safetensors file: {error}") from None
    settings = parse_json(noted.encode(), f"{file}: {METADATA}") if noted else {}
    if any(name.startswith(PEFT) for name in tensors):
        beside = file.with_name("adapter_config.json")
        if not beside.is_file():
            raise UserError(f"{file}: peft's layout needs adapter_config.json beside it, which says alpha and rank")
        settings = {f"{UNET}.{name}": value for name, value in read_json(beside).items()}
        tensors = {f"{UNET}.{name.removeprefix(PEFT)}": value for name, value in tensors.items()}
    return tensors, settings


def _updates(part: str, named: dict[str, Any], alphas: dict[str, Any], settings: dict[str, Any], file: Path) -> Updates:
    """A part's updates, scaled."""
    weights, scales = (_named(part, some) for some in (named, alphas))
    updates: Updates = {}
    for name, down in weights.items():
        module, kind, _ = name.partition(".lora_A")
        if not kind:
            continue
        up = weights.get(f"{module}.lora_B{name.removeprefix(f'{module}.lora_A')}")
        if up is None or up.shape[1] != down.shape[0]:
            there = "without the second matrix" if up is None else f"of ranks {down.shape[0]} and {up.shape[1]}"
            raise UserError(f"{file}: {part} {module} has two matrices that do not fit: {there}")
        alpha = next((float(scales[name]) for name in (f"{module}.alpha", f"{name}.alpha") if name in scales), None)
        scale = _noted_scale(part, module, down.shape[0], settings) if alpha is None else alpha / down.shape[0]
        updates[module] = Update(down, up * scale)
    return updates


def _named(part: str, some: dict[str, Any]) -> dict[str, Any]:
    """The entries of a part under peft's names, without the part's."""
    own = {name.removeprefix(f"{part}."): value for name, value in some.items() if name.startswith(f"{part}.")}
    own = {re.sub(r"\.processor\.", ".", name): value for name, value in own.items()}
    if part == UNET:
        return convert_unet_state_dict_to_peft(own)
    return {_of_text(name): value for name, value in own.items()}


def _of_text(name: str) -> str:
    """peft's name of what kohya's and older files say of a text encoder, as diffusers has read it."""
    name = re.sub(r"\.to_(q|k|v|out)_lora\.", r".\1_proj.lora.", name)
    return re.sub(r"\.lora(_linear_layer)?\.(down|up)\b", lambda found: f".lora_{SIDES[found[2]]}", name)


def _noted_scale(part: str, module: str, rank: int, settings: dict[str, Any]) -> float:
    """alpha / rank (rsLoRA: alpha over its root) as the settings have it; 1 where they say nothing."""
    alpha = settings.get(f"{part}.lora_alpha")
    if alpha is None:
        return 1.0
    pattern = settings.get(f"{part}.alpha_pattern") or {}
    alpha = next((value for name, value in pattern.items() if module == name or module.endswith(f".{name}")), alpha)
    return float(alpha) / (math.sqrt(rank) if settings.get(f"{part}.use_rslora") else rank)


def write_lora(file: Path, parts: dict[str, Updates]) -> None:
    """Write updates as stock `load_lora_weights` reads them: without alphas, which means a scale of 1."""
    tensors: dict[str, Tensor] = {}
    for part, updates in parts.items():
        for module, (down, up) in updates.items():
            tensors |= {f"{part}.{module}.lora_A.weight": down, f"{part}.{module}.lora_B.weight": up}
    half = file.with_suffix(".half")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in tensors.items()}, half, {"format": "pt"})
    half.replace(file)
