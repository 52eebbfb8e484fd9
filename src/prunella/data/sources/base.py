"""The interface of a source of pairs: rows, which the table's criteria judge, and pictures by the rows' keys."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa
from PIL import Image

from prunella.data.images import decode_image, open_rgb
from prunella.params import Filter


class Source(Protocol):
    """Pairs in one layout. A new layout is a subclass in a file of its own, and a line in `prunella.data.sources`.

    `source` is a dictionary that holds all that is needed to find the same pairs again. The manifest keeps it as
    `source.json`, and its key "source" names the layout.
    """

    rendered: bool = (
        False  # made from the rows on demand: no bytes are stored, there is no end, and sizes in rows are true
    )

    @classmethod
    def describe(cls, params: Filter, seed: int) -> dict:
        """The dictionary `source` of the pairs that `params` names."""
        return {"source": params.source, "path": params.path, "columns": dict(params.columns)}

    def __init__(self, source: dict): ...

    def iter_rows(self) -> Iterator[pa.Table]:
        """The rows as `prunella.data.schema` describes them. Raises UserError where the layout is another."""
        ...

    def shard_names(self) -> list[str]:
        """Names of the pieces whose rows are worth reading apart, in the order of `iter_rows`.

        None where they are not.
        """
        return []

    def iter_shard_rows(self, shard: str) -> Iterator[pa.Table]:
        """The rows of a piece; of a source without pieces all."""
        return self.iter_rows()

    def read_image_bytes(self, key: str) -> bytes:
        """The picture's bytes. Raises RejectedImage where there are none, OSError where the machine fails."""
        ...

    def load_image(self, key: str) -> Image.Image:
        """The picture as RGB.

        Raises as `read_image_bytes` does, RejectedImage also where the bytes are no usable picture.
        """
        return decode_image(self.read_image_bytes(key))

    def open_image(self, key: str) -> AbstractContextManager[Image.Image]:
        """`load_image` for the time of a block, within which its memory counts towards
        `prunella.data.images.DECODE_MEMORY_BYTES`.
        """
        return open_rgb(self.read_image_bytes(key))
