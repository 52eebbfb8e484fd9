"""Families of UNets: a teacher's is told by its block types and depths, never by its widths. Needs no torch."""

from collections.abc import Mapping
from typing import Any

from prunella.errors import UserError
from prunella.models.families.base import CROSS, CROSS_UP, PLAIN, PLAIN_UP, Family
from prunella.models.families.sd import SD
from prunella.models.families.sdxl import SDXL

FAMILIES: dict[str, Family] = {"sd": SD, "sdxl": SDXL}


def family(config: Mapping[str, Any]) -> str | None:
    """ "sd" (1.x, 2.x) or "sdxl" by a teacher's UNet config; None where it is neither, as for a student of either."""
    types = tuple(config.get("down_block_types", ()))
    for name, known in FAMILIES.items():
        if types == known.down and _depths(config, len(types)) == (known.layers, known.mid, known.pairs):
            return name
    return None


def called_as(config: Mapping[str, Any]) -> str | None:
    """The name of the family that a UNet of this config, teacher or student, is called as; None where of none."""
    embeds = config.get("addition_embed_type")
    return next((name for name, known in FAMILIES.items() if known.embeds == embeds), None)


def architecture(config: Mapping[str, Any]) -> Family:
    """The family that a UNet of this config, teacher or student, is called as: by what is added to its embeddings.

    Raises UserError for another kind of addition.
    """
    if (name := called_as(config)) is not None:
        return FAMILIES[name]
    embeds = config.get("addition_embed_type")
    raise UserError(f"addition_embed_type is {embeds!r}; known: {', '.join(repr(k.embeds) for k in FAMILIES.values())}")


def predict(model: Any, noisy: Any, timesteps: Any, batch: Mapping[str, Any]) -> Any:
    """A model's prediction (NCHW) of noisy latents (NCHW) at timesteps (N), teacher's or student's.

    `batch` holds what its family is called with beside (see `Family.predict`). One without a config is called as SD.
    """
    return architecture(getattr(model, "config", {})).predict(model, noisy, timesteps, batch)


def blocks(config: Mapping[str, Any]) -> tuple[list[list[Any]], Any, list[list[Any]]]:
    """Transformer layers of each pair by down stage, of the mid block, and of each pair by up stage.

    A pair without attention has 0, as has a mid block without; where there is no mid block that is None. Blocks of
    other types stand for themselves, by name.
    """
    down, up = (list(config.get(f"{way}_block_types", ())) for way in ("down", "up"))
    pairs = _each(config.get("layers_per_block", 2), len(down))
    layers = _each(config.get("transformer_layers_per_block", 1), len(down))
    mirrored = _each(config.get("reverse_transformer_layers_per_block") or layers[::-1], len(up))
    last = _each(layers[-1], 1)[0] if layers else 0
    kinds = {"UNetMidBlock2DCrossAttn": last, "UNetMidBlock2D": 0, None: None}
    mid = config.get("mid_block_type", "UNetMidBlock2DCrossAttn")
    return (
        [_pairs(*stage) for stage in zip(down, pairs, layers, strict=False)],
        kinds.get(mid, mid),
        [_pairs(kind, some + 1, depth) for kind, some, depth in zip(up, pairs[::-1], mirrored, strict=False)],
    )


def _each(value: Any, count: int) -> list:
    return list(value) if isinstance(value, list | tuple) else [value] * count


def _pairs(kind: str, count: int, layers: Any) -> list:
    """Transformer layers of each of a stage's pairs."""
    return _each(layers if kind in (CROSS, CROSS_UP) else {PLAIN: 0, PLAIN_UP: 0}.get(kind, kind), count)


def _depths(config: Mapping[str, Any], stages: int) -> tuple:
    """(transformer layers by down stage, of the mid block, resnets a down stage); lists as they are where uneven."""
    layers = config.get("transformer_layers_per_block", 1)
    each = tuple(layers) if isinstance(layers, list | tuple) else (layers,) * stages
    found = tuple(depth if kind == CROSS else 0 for kind, depth in zip(config["down_block_types"], each, strict=False))
    mid = each[-1] if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn" else 0
    return found, mid, config.get("layers_per_block", 2)


def shape(config: Mapping[str, Any]) -> str:
    """What decides a UNet's family, in words."""
    types = config.get("down_block_types", ())
    if not types:
        return "no down blocks"
    layers, mid, pairs = _depths(config, len(types))
    return f"down blocks {', '.join(types)} of {pairs} pairs with {list(layers)} transformer layers, mid block {mid}"


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers config without the notes that it keeps under "_…".

    Where "_use_default_values" is among them, `from_config` resets what it names to its default.
    """
    return {name: value for name, value in config.items() if not name.startswith("_")}
