"""Where pairs come from. A source is a room with `index` (tables of rows) and `reader` (from a key to bytes).

Which one, and what it needs to find everything again, is a dictionary that the manifest keeps as `source.json`.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pyarrow as pa
from PIL import Image

from prunella.data.columns import of_rows
from prunella.data.images import decoded
from prunella.data.sources import folder, hub, parquet, webdataset
from prunella.params import Filter
from prunella.scenes import generator

SOURCES: dict[str, ModuleType] = {
    "folder": folder,
    "parquet": parquet,
    "webdataset": webdataset,
    "hub": hub,
}
BATCH = 4096


def described(params: Filter, seed: int) -> dict:
    """What `index`, `fetcher` and `picturer` need to know of the source."""
    source = {"source": params.source, "path": params.path}
    if params.source == "scenes":
        generator.read_vocabulary(params.path)
        return source | {"seed": seed, "sha256": hashlib.sha256(Path(params.path).read_bytes()).hexdigest()}
    if params.source == "hub":
        commit = hub.commit(params.id, params.revision)
        source |= {"id": params.id, "revision": commit, "split": params.split}
    return source | {"columns": dict(params.columns)}


def index(source: dict, samples: int) -> Iterator[pa.Table]:
    """Every row; of generator, which have no end, `samples`."""
    if source["source"] != "scenes":
        yield from SOURCES[source["source"]].index(source)
        return
    vocabulary = generator.read_vocabulary(source["path"])
    for start in range(0, samples, BATCH):
        numbers = range(start, min(start + BATCH, samples))
        size = {"width": vocabulary.picture, "height": vocabulary.picture}
        rows = [{"text": generator.caption(vocabulary, source["seed"], number), **size} for number in numbers]
        yield of_rows([str(number) for number in numbers], rows, {name: name for name in ("text", *size)})


def fetcher(source: dict) -> Callable[[str], bytes] | None:
    """From a key to the picture's bytes (raises Unfit); None of generator, which have none until they are drawn."""
    return SOURCES[source["source"]].reader(source) if source["source"] in SOURCES else None


def picturer(source: dict) -> Callable[[str], Image.Image]:
    """From a key to the picture as RGB (raises Unfit)."""
    if fetch := fetcher(source):
        return lambda key: decoded(fetch(key))
    vocabulary = generator.read_vocabulary(source["path"])
    return lambda key: Image.fromarray(generator.captioned(vocabulary, source["seed"], int(key))[1])
