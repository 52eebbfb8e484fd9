"""Pictures as a table, to look at."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL = 150  # pixels, width of the row labels
GAP = 4  # pixels between pictures


def grid(rows: dict[str, list[np.ndarray]], zoom: int = 1) -> Image.Image:
    """Pictures (HWC uint8) as a table: a labelled row per key, each cell as large as the largest picture."""
    every = [picture for pictures in rows.values() for picture in pictures]
    tile_h, tile_w = (max(picture.shape[side] for picture in every) * zoom + GAP for side in (0, 1))
    columns = max(map(len, rows.values()))
    sheet = Image.new("RGB", (LABEL + columns * tile_w, len(rows) * tile_h), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for y, (name, pictures) in enumerate(rows.items()):
        pen.text((6, y * tile_h + tile_h // 2 - 8), name, fill="black", font=font)
        for x, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            image = Image.fromarray(picture).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(image, (LABEL + x * tile_w, y * tile_h + GAP // 2))
    return sheet
