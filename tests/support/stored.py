"""Folders put on fsspec's store in memory, and a store that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec


def put(folder: Path, name: str) -> str:
    """The address of a copy of `folder` in memory."""
    store, address = fsspec.filesystem("memory"), f"memory://{name}"
    if store.exists(address):
        store.rm(address, recursive=True)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            store.pipe_file(f"{address}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return address


@contextmanager
def emptied(name: str, below: str) -> Iterator[str]:
    """An address in memory, `below` in a folder of which afterwards nothing is left."""
    store, root = fsspec.filesystem("memory"), f"memory://{name}"
    yield f"{root}/{below}"
    if store.exists(root):
        store.rm(root, recursive=True)


class Watched:
    """The store in memory: notes what it is asked to read, and fails with `error` where a name has `failing` in it."""

    def __init__(self, error: Exception | None = None, failing: str = "\0"):
        self.store, self.error, self.failing = fsspec.filesystem("memory"), error, failing
        self.read: list[tuple[str, Any, Any]] = []
        self.fetched: list[str] = []

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        self.read.append((path, start, end))
        if self.error and self.failing in path:
            raise self.error
        return self.store.cat_file(path, start=start, end=end)

    def get_file(self, path: str, to: str) -> None:
        self.fetched.append(path)
        if self.error and self.failing in path:
            raise self.error
        self.store.get_file(path, to)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)
