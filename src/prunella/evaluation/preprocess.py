"""Pictures as they are measured: as they are, or as a published protocol stores them first."""

import io

import numpy as np
from PIL import Image

from prunella.evaluation.metrics.base import Images


def as_measured(images: Images, resize: int | None, jpeg: bool, stored: bool = False) -> Images:
    """Pictures (HWC uint8) squashed to `resize` pixels to a side; with `jpeg` stored as such before and after.

    As BK-SDM's scripts do it: Pillow's defaults, which are a quality of 75 and bicubic resizing. Those that are
    `stored` already, as real pictures are, are not stored before.
    """
    if resize is None and not jpeg:
        return images
    return [_through(Image.fromarray(image), resize, jpeg, stored) for image in images]


def _through(picture: Image.Image, resize: int | None, jpeg: bool, stored: bool) -> np.ndarray:
    if jpeg and not stored:
        picture = _jpeg(picture)
    if resize is not None:
        picture = picture.resize((resize, resize))
        picture = _jpeg(picture) if jpeg else picture
    return np.asarray(picture.convert("RGB"))


def _jpeg(picture: Image.Image) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG")
    return Image.open(file)
