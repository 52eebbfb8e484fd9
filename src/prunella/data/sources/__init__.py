"""Layouts that pairs are read from, by the names that `filter.source` gives them."""

from prunella.data.sources.base import Source
from prunella.data.sources.folder import Folder
from prunella.data.sources.generated import GeneratedImages
from prunella.data.sources.hub import Hub
from prunella.data.sources.parquet import Parquet
from prunella.data.sources.scenes import Scenes
from prunella.data.sources.webdataset import WebDataset
from prunella.params import Filter

SOURCES: dict[str, type[Source]] = {
    "scenes": Scenes,
    "folder": Folder,
    "parquet": Parquet,
    "webdataset": WebDataset,
    "hub": Hub,
    "generated": GeneratedImages,
}


def describe_source(params: Filter, seed: int) -> dict:
    """The data from which `open_source` finds the pairs of `params` again, as the manifest keeps it."""
    return SOURCES[params.source].describe(params, seed)


def open_source(source: dict) -> Source:
    """The source that `describe_source` described."""
    return SOURCES[source["source"]](source)
