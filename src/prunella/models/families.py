"""Families of UNets, told apart by their block types and depths, never by their widths."""

from collections.abc import Mapping
from typing import Any, NamedTuple

PLAIN, CROSS = "DownBlock2D", "CrossAttnDownBlock2D"


class Family(NamedTuple):
    """`layers`: transformer layers of each attention, by down stage; 0 where a stage has no attention."""

    title: str
    down: tuple[str, ...]
    layers: tuple[int, ...]
    mid: int  # transformer layers of the mid block
    pairs: int = 2  # resnets in a down stage, each with its attention; an up stage has one more

    def layers_of(self, way: str, stage: int) -> int:
        """Transformer layers of each attention in a stage; up stages mirror the down stages."""
        return self.layers[stage] if way == "down" else self.layers[::-1][stage]

    def pairs_of(self, way: str) -> int:
        return self.pairs + (way == "up")


FAMILIES = {
    "sd": Family("Stable Diffusion 1.x or 2.x", (CROSS, CROSS, CROSS, PLAIN), (1, 1, 1, 0), mid=1),
    "sdxl": Family("Stable Diffusion XL", (PLAIN, CROSS, CROSS), (0, 2, 10), mid=10),
}


def family(config: dict[str, Any]) -> str | None:
    """ "sd" (1.x, 2.x) or "sdxl" by a UNet's config; None where it is neither, as for a student of either."""
    types = tuple(config.get("down_block_types", ()))
    for name, known in FAMILIES.items():
        if types == known.down and _depths(config, len(types)) == (known.layers, known.mid, known.pairs):
            return name
    return None


def _depths(config: dict[str, Any], stages: int) -> tuple:
    """(transformer layers by down stage, of the mid block, resnets a down stage); lists as they are where uneven."""
    layers = config.get("transformer_layers_per_block", 1)
    each = tuple(layers) if isinstance(layers, list | tuple) else (layers,) * stages
    found = tuple(depth if kind == CROSS else 0 for kind, depth in zip(config["down_block_types"], each, strict=False))
    mid = each[-1] if config.get("mid_block_type", "UNetMidBlock2DCrossAttn") == "UNetMidBlock2DCrossAttn" else 0
    return found, mid, config.get("layers_per_block", 2)


def shape(config: dict[str, Any]) -> str:
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
