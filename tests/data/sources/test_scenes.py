import io
from itertools import islice

import numpy as np
from conftest import ROOT
from PIL import Image

from prunella.data.sources import SOURCES, open_source
from prunella.data.sources.scenes import BATCH
from prunella.scenes.generator import render_sample

SOURCE = {"source": "scenes", "path": str(ROOT / "data" / "scenes.yaml"), "seed": 3, "sha256": ""}


def test_rows_do_not_end_and_pictures_are_made_by_number(vocabulary):
    scenes = open_source(SOURCE)
    first, second = islice(scenes.iter_rows(), 2)
    row = second.slice(1, 1).to_pylist()[0]
    text, pixels = render_sample(vocabulary, 3, BATCH + 1)
    assert (row["key"], row["text"]) == (str(BATCH + 1), text) and len(first) == BATCH
    assert (row["height"], row["width"]) == pixels.shape[:2]
    assert np.array_equal(np.asarray(scenes.load_image(row["key"])), pixels)
    with scenes.open_image(row["key"]) as picture:
        assert np.array_equal(np.asarray(picture), pixels)
    with Image.open(io.BytesIO(scenes.read_image_bytes(row["key"]))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)


def test_scenes_alone_are_rendered():
    assert [name for name, source in SOURCES.items() if source.rendered] == ["scenes"]
