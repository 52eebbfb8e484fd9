"""What a source of pairs is: rows, which the table's criteria judge, and pictures by the rows' keys."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa
from PIL import Image

from prunella.data.images import decoded, unpacked
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

    def rows(self) -> Iterator[pa.Table]:
        """The rows as `prunella.data.schema` describes them. Raises UserError where the layout is another."""
        ...

    def pieces(self) -> list[str]:
        """Names of the pieces whose rows are worth reading apart, in the order of `rows`; none where they are not."""
        return []

    def rows_of(self, piece: str) -> Iterator[pa.Table]:
        """The rows of a piece; of a source without pieces all."""
        return self.rows()

    def read(self, key: str) -> bytes:
        """The picture's bytes. Raises RejectedImage where there are none, OSError where the machine fails."""
        ...

    def image(self, key: str) -> Image.Image:
        """The picture as RGB. Raises as `read` does, RejectedImage also where the bytes are no usable picture."""
        return decoded(self.read(key))

    def opened(self, key: str) -> AbstractContextManager[Image.Image]:
        """`image` for the time of a block, within which its memory counts towards `prunella.data.images.AT_ONCE`."""
        return unpacked(self.read(key))
