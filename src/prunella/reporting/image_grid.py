"""Pictures as a table, to look at."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_WIDTH = 150  # pixels, width of the row labels
GAP = 4  # pixels between pictures


def render_grid(rows: dict[str, list[np.ndarray]], zoom: int = 1) -> Image.Image:
    """Pictures (HWC uint8) as a table: a labelled row per key, each cell as large as the largest picture."""
    all_images = [image_array for images in rows.values() for image_array in images]
    tile_h, tile_w = (max(image_array.shape[side] for image_array in all_images) * zoom + GAP for side in (0, 1))
    columns = max(map(len, rows.values()))
    sheet = Image.new("RGB", (LABEL_WIDTH + columns * tile_w, len(rows) * tile_h), "white")
    canvas, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for y, (name, images) in enumerate(rows.items()):
        canvas.text((6, y * tile_h + tile_h // 2 - 8), name, fill="black", font=font)
        for x, image_array in enumerate(images):
            height, width = image_array.shape[:2]
            image = Image.fromarray(image_array).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(image, (LABEL_WIDTH + x * tile_w, y * tile_h + GAP // 2))
    return sheet
