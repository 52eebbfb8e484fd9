"""Families of UNets: a teacher's is told by its block types and depths, never by its widths. Needs no torch."""

from collections.abc import Mapping
from typing import Any

from prunella.errors import UserError
from prunella.models.families.base import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, Family
from prunella.models.families.sd import SD
from prunella.models.families.sdxl import SDXL

FAMILIES: dict[str, Family] = {"sd": SD, "sdxl": SDXL}


def detect_teacher_family(config: Mapping[str, Any]) -> str | None:
    """ "sd" (1.x, 2.x) or "sdxl" by a teacher's UNet config; None where it is neither, as for a student of either."""
    types = tuple(config.get("down_block_types", ()))
    for name, candidate in FAMILIES.items():
        if types == candidate.down_block_types and _read_depths(config, len(types)) == (
            candidate.transformer_layers,
            candidate.mid_layers,
            candidate.layers_per_block,
        ):
            return name
    return None


def pipeline_family(config: Mapping[str, Any]) -> str | None:
    """The name of the family that a UNet of this config, teacher or student, is called as; None where of none."""
    embeds = config.get("addition_embed_type")
    return next((name for name, candidate in FAMILIES.items() if candidate.addition_embed_type == embeds), None)


def family_of_unet(config: Mapping[str, Any]) -> Family:
    """The family that a UNet of this config, teacher or student, is called as: by what is added to its embeddings.

    Raises UserError for another kind of addition.
    """
    if (name := pipeline_family(config)) is not None:
        return FAMILIES[name]
    embeds = config.get("addition_embed_type")
    raise UserError(
        f"addition_embed_type is {embeds!r}; known: "
        f"{', '.join(repr(candidate.addition_embed_type) for candidate in FAMILIES.values())}"
    )


def predict_with_unet(model: Any, noisy_latents: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
    """A model's prediction (NCHW) of noisy latents (NCHW) at timesteps (N), teacher's or student's.

    `batch` holds what its family is called with beside (see `Family.predict`). One without a config is called as SD.
    """
    return family_of_unet(getattr(model, "config", {})).predict_with_unet(model, noisy_latents, timesteps, batch)


def count_transformer_layers(config: Mapping[str, Any]) -> tuple[list[list[Any]], Any, list[list[Any]]]:
    """Transformer layers of each pair by down stage, of the mid block, and of each pair by up stage.

    A pair without attention has 0, as has a mid block without; where there is no mid block that is None. Blocks of
    other types stand for themselves, by name.
    """
    down, up = (list(config.get(f"{direction}_block_types", ())) for direction in ("down", "up"))
    resnets = _per_stage(config.get("layers_per_block", 2), len(down))
    layers = _per_stage(config.get("transformer_layers_per_block", 1), len(down))
    up_layers = _per_stage(config.get("reverse_transformer_layers_per_block") or layers[::-1], len(up))
    mid_layers = _per_stage(layers[-1], 1)[0] if layers else 0
    layers_by_mid_type = {"UNetMidBlock2DCrossAttn": mid_layers, "UNetMidBlock2D": 0, None: None}
    mid_type = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    return (
        [_stage_layers(*stage) for stage in zip(down, resnets, layers, strict=False)],
        layers_by_mid_type.get(mid_type, mid_type),
        [
            _stage_layers(kind, num_resnets + 1, depth)
            for kind, num_resnets, depth in zip(up, resnets[::-1], up_layers, strict=False)
        ],
    )


def _per_stage(value: Any, count: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _stage_layers(block_type: str, count: int, layers: Any) -> list:
    """Transformer layers of each of a stage's pairs."""
    return _per_stage(
        layers if block_type in (CROSS_DOWN, CROSS_UP) else {PLAIN_DOWN: 0, PLAIN_UP: 0}.get(block_type, block_type),
        count,
    )


def _read_depths(config: Mapping[str, Any], num_stages: int) -> tuple:
    """(transformer layers by down stage, of the mid block, resnets a down stage); lists as they are where uneven."""
    layers = config.get("transformer_layers_per_block", 1)
    layers_per_stage = tuple(layers) if isinstance(layers, list | tuple) else (layers,) * num_stages
    attention_layers = tuple(
        depth if block_type == CROSS_DOWN else 0
        for block_type, depth in zip(config["down_block_types"], layers_per_stage, strict=False)
    )
    mid = (
        layers_per_stage[-1]
        if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn"
        else 0
    )
    return attention_layers, mid, config.get("layers_per_block", 2)


def describe_unet_shape(config: Mapping[str, Any]) -> str:
    """The reason for a UNet's family, in words."""
    types = config.get("down_block_types", ())
    if not types:
        return "no down blocks"
    layers, mid, resnets = _read_depths(config, len(types))
    return f"down blocks {', '.join(types)} of {resnets} pairs with {list(layers)} transformer layers, mid block {mid}"


def strip_private_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config without the notes that it keeps under "_…".

    If "_use_default_values" is among them, `from_config` resets what it names to its default.
    """
    return {name: value for name, value in config.items() if not name.startswith("_")}
