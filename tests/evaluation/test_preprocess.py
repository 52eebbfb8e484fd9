import io

import numpy as np
from PIL import Image

from prunella.evaluation.preprocess import preprocess_images

PICTURE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def through_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return np.asarray(Image.open(file))


def test_pictures_are_measured_as_they_are():
    given = [PICTURE]
    assert preprocess_images(given, None, False) is given  # what is kept of a batch is known by its list


def test_as_a_protocol_stores_them():
    squashed = np.asarray(Image.fromarray(through_jpeg(PICTURE)).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(preprocess_images([PICTURE], 8, True)[0], through_jpeg(squashed))
    bare = np.asarray(Image.fromarray(PICTURE).resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(preprocess_images([PICTURE], 8, True, stored=True)[0], through_jpeg(bare))
    assert np.array_equal(preprocess_images([PICTURE], 8, False)[0], bare)
    assert np.array_equal(preprocess_images([PICTURE], None, True)[0], through_jpeg(PICTURE))
    assert not np.array_equal(through_jpeg(bare), bare)
