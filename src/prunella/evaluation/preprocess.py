"""Pictures as they are measured: as they are, or as a published protocol stores them first."""

import io

import numpy as np
from PIL import Image

from prunella.evaluation.metrics.base import Images


def preprocess_images(images: Images, resize: int | None, jpeg: bool, stored: bool = False) -> Images:
    """Pictures (HWC uint8) squashed to `resize` pixels to a side; with `jpeg` stored as such before and after.

    Like BK-SDM's scripts: Pillow's defaults, which are a quality of 75 and bicubic resizing. Those that are
    `stored` already, as real pictures are, are not stored before.
    """
    if resize is None and not jpeg:
        return images
    return [_preprocess_image(Image.fromarray(image), resize, jpeg, stored) for image in images]


def _preprocess_image(image: Image.Image, resize: int | None, jpeg: bool, stored: bool) -> np.ndarray:
    if jpeg and not stored:
        image = _roundtrip_jpeg(image)
    if resize is not None:
        image = image.resize((resize, resize))
        image = _roundtrip_jpeg(image) if jpeg else image
    return np.asarray(image.convert("RGB"))


def _roundtrip_jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return Image.open(file)
