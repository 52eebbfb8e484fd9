"""Rendered scenes: an endless series of captions and pictures that a vocabulary file and a seed determine."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from pathlib import Path

import pyarrow as pa
from PIL import Image

from prunella.data.schema import of_rows
from prunella.data.sources.base import Source
from prunella.params import Filter
from prunella.scenes.generator import caption, captioned, read_vocabulary

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

    def rows(self) -> Iterator[pa.Table]:
        """Captions and the size that every picture has. They do not end."""
        size = dict.fromkeys(("width", "height"), self.vocabulary.picture)
        for start in count(0, BATCH):
            numbers = range(start, start + BATCH)
            rows = [{"text": caption(self.vocabulary, self.seed, number), **size} for number in numbers]
            yield of_rows([str(number) for number in numbers], rows, {name: name for name in ("text", *size)})

    def read(self, key: str) -> bytes:
        """The picture as a PNG."""
        file = io.BytesIO()
        self.image(key).save(file, "PNG")
        return file.getvalue()

    def image(self, key: str) -> Image.Image:
        """The picture, without a detour over bytes."""
        return Image.fromarray(captioned(self.vocabulary, self.seed, int(key))[1])

    def opened(self, key: str) -> AbstractContextManager[Image.Image]:
        """`image`; small pictures need no budget."""
        return nullcontext(self.image(key))
