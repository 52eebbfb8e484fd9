"""Rendered scenes: an endless series of captions and pictures that a vocabulary file and a seed determine."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path

import pyarrow as pa
from PIL import Image

from prunella.data.schema import rows_to_table
from prunella.data.sources.base import Source
from prunella.params import Filter
from prunella.scenes.generator import make_caption, read_vocabulary, render_sample

BATCH = 256  # rows at a time; few, since a caption takes longer than a batch's overhead


class Scenes(Source):
    """Keys are numbers in the series."""

    rendered = True

    @classmethod
    def describe(cls, params: Filter, seed: int) -> dict:
        """With the vocabulary's sum, so that the manifest changes when the scenes do. UserError where it is none."""
        read_vocabulary(params.path)
        digest = hashlib.sha256(Path(params.path).read_bytes()).hexdigest()
        return {"source": params.source, "path": params.path, "seed": seed, "sha256": digest}

    def __init__(self, source: dict):
        self.vocabulary, self.seed = read_vocabulary(source["path"]), source["seed"]

    def iter_rows(self) -> Iterator[pa.Table]:
        """Captions and the size that every picture has. They do not end."""
        size = dict.fromkeys(("width", "height"), self.vocabulary.picture)
        for start in count(0, BATCH):
            numbers = range(start, start + BATCH)
            rows = [{"text": make_caption(self.vocabulary, self.seed, number), **size} for number in numbers]
            yield rows_to_table([str(number) for number in numbers], rows, {name: name for name in ("text", *size)})

    def read_image_bytes(self, key: str) -> bytes:
        """The picture as a PNG."""
        file = io.BytesIO()
        self.load_image(key).save(file, "PNG")
        return file.getvalue()

    def load_image(self, key: str) -> Image.Image:
        """The picture, without a detour over bytes."""
        return Image.fromarray(render_sample(self.vocabulary, self.seed, int(key))[1])

    def open_image(self, key: str) -> AbstractContextManager[Image.Image]:
        """`load_image`; small pictures need no budget."""
        return nullcontext(self.load_image(key))
