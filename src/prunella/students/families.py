"""Families of UNets, told apart by their block types, never by their widths."""

from typing import Any

FAMILIES = {
    ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"): "sd",
    ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"): "sdxl",
}


def family(config: dict[str, Any]) -> str | None:
    """ "sd" (1.x, 2.x) or "sdxl" by a UNet's config; None where it is neither."""
    return FAMILIES.get(tuple(config.get("down_block_types", ())))
