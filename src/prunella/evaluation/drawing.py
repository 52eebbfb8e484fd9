"""Pictures from a pipeline: fixed prompts, fixed noise, and grids to look at them."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from prunella.compute.seeds import DRAWING, generator


@torch.no_grad()
def draw(
    pipeline,
    prompts: list[str],
    *,
    steps: int,
    guidance: float,
    seed: int,
    batch_size: int,
    first: int = 0,
    dtype: torch.dtype | None = None,
) -> Iterator[np.ndarray]:
    """HWC uint8 pictures of `prompts`. Prompt i starts from noise of its own, `first` + i, whatever the batches.

    So models drawn with the same seed start from the same noise. Latents are in `dtype`, or as the UNet's weights are.
    """
    unet = pipeline.unet
    side = unet.config.sample_size
    for start in range(0, len(prompts), batch_size):
        chosen = prompts[start : start + batch_size]
        noise = [
            torch.randn(unet.config.in_channels, side, side, generator=generator(DRAWING, seed, first + start + i))
            for i in range(len(chosen))
        ]
        latents = torch.stack(noise).to(unet.device, dtype or unet.dtype)
        drawn = pipeline(chosen, num_inference_steps=steps, guidance_scale=guidance, latents=latents, output_type="np")
        yield from (drawn.images * 255).round().astype(np.uint8)


def grid(rows: dict[str, list[np.ndarray]], zoom: int = 1) -> Image.Image:
    """Pictures (HWC uint8) as a table: a labelled row per key."""
    label = 150
    height, width = next(iter(rows.values()))[0].shape[:2]
    tile_w, tile_h = width * zoom + 4, height * zoom + 4
    columns = max(map(len, rows.values()))
    sheet = Image.new("RGB", (label + columns * tile_w, len(rows) * tile_h), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for y, (name, pictures) in enumerate(rows.items()):
        pen.text((6, y * tile_h + tile_h // 2 - 8), name, fill="black", font=font)
        for x, picture in enumerate(pictures):
            image = Image.fromarray(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(image, (label + x * tile_w, y * tile_h + 2))
    return sheet
