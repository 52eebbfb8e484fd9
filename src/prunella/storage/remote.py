"""Places that parameters name: paths of this machine, and addresses on object stores.

A store is reached through fsspec, which asks the environment where it is and who we are (AWS_ENDPOINT_URL, AWS_PROFILE,
GOOGLE_APPLICATION_CREDENTIALS, …): no parameter says that. What goes wrong at a store has many kinds, of which few are
OSErrors. Here they become two: a UserError of one line where a store is asked what it holds, and EIO where something
that it holds is read, which like a disk's is never the fault of what was asked for.
"""

import errno
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from prunella.errors import UserError

EXTRAS = {"s3": "s3", "gs": "gs", "memory": ""}  # kinds of address, and what is to be installed; memory is for tests
AHEAD = 8 << 20  # bytes that are asked for at once where a file is read through
LONGEST = 1024  # bytes of an object's name
AT_ONCE = 32  # small objects that are waited for side by side
OF_OUR_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
OF_THE_OBJECT = (FileNotFoundError, IsADirectoryError, NotADirectoryError, MemoryError)


@dataclass(frozen=True, order=True)
class Remote:
    """A file or a folder on an object store, with what Path has for reading. Names come in Path's order."""

    kind: str  # s3
    pure: PurePosixPath  # bucket/folder/file
    length: int | None = field(default=None, compare=False)  # bytes, of a file that was listed

    def __str__(self) -> str:
        return f"{self.kind}://{self.pure}"

    def __truediv__(self, name: str | PurePosixPath) -> "Remote":
        return Remote(self.kind, self.pure / name)

    @property
    def name(self) -> str:
        return self.pure.name

    @property
    def stem(self) -> str:
        return self.pure.stem

    @property
    def suffix(self) -> str:
        return self.pure.suffix

    @property
    def parent(self) -> "Remote":
        return Remote(self.kind, self.pure.parent)

    def with_name(self, name: str) -> "Remote":
        return Remote(self.kind, self.pure.with_name(name))

    def with_suffix(self, suffix: str) -> "Remote":
        return Remote(self.kind, self.pure.with_suffix(suffix))

    def relative_to(self, root: "Remote") -> PurePosixPath:
        return self.pure.relative_to(root.pure)

    def is_file(self) -> bool:
        """Raises UserError, as all that ask do, where the store cannot be asked."""
        return self.length is not None or (self._about() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self._about() or {}).get("type") == "directory"

    def exists(self) -> bool:
        return self._about() is not None

    def rglob(self, pattern: str) -> Iterator["Remote"]:
        """The files below whose names are like `pattern`; folders, of which a store has none, are left out."""
        for path, about in self._below().items():
            if fnmatch(path.name, pattern):
                yield Remote(self.kind, path, about["size"])

    def marks(self) -> dict[str, str]:
        """Of every file below, or of the file itself, what changes when its content does, as the store has it now."""
        known = {f"{self.kind}://{path}": _mark(about) for path, about in self._below().items()}
        return known or {str(self): _mark(about) for about in [self._about()] if about}

    def size(self) -> int:
        """Bytes of a file. Raises FileNotFoundError, and OSError where the store fails, as all that read do."""
        if self.length is not None:
            return self.length
        with _reading(self):
            return int(_store(self.kind).info(str(self))["size"])

    def part(self, start: int, count: int) -> bytes:
        """`count` bytes of a file from `start` on, or as many as there are."""
        if start < 0 or count < 0:
            raise ValueError(f"{count} bytes from {start} on")
        if not count:
            return b""
        with _reading(self):
            try:
                return bytes(_store(self.kind).cat_file(str(self), start=start, end=start + count))
            except OSError as error:
                if error.errno == errno.EINVAL and "range" in str(error):  # there is no byte at `start`
                    return b""
                raise

    def read_bytes(self) -> bytes:
        with _reading(self):
            return bytes(_store(self.kind).cat_file(str(self)))

    def fetch(self, to: Path) -> None:
        """Write the file to a path of this machine."""
        with _reading(self):
            _store(self.kind).get_file(str(self), str(to))

    def put(self, file: Path) -> None:
        """Have the store hold a file of this machine here, whole or not at all. Raises UserError where it fails."""
        with _asking(self):
            _store(self.kind).put_file(str(file), str(self))

    def write_text(self, text: str) -> None:
        """As `put`, of a text (UTF-8)."""
        with _asking(self):
            _store(self.kind).pipe_file(str(self), text.encode())

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file, to be read through; what is skipped over is read as well, up to AHEAD bytes."""
        assert mode == "rb"
        return io.BufferedReader(self.raw(), AHEAD)

    def raw(self) -> io.RawIOBase:
        """The file; each read of it asks the store."""
        return _Raw(self)

    def _below(self) -> dict[PurePosixPath, dict]:
        with _asking(self):
            _store(self.kind).invalidate_cache()  # others write to it too
            found = _store(self.kind).find(str(self), detail=True)
        named = {PurePosixPath(name.lstrip("/")): about for name, about in found.items()}
        return {path: about for path, about in sorted(named.items()) if path != self.pure}

    def _about(self) -> dict | None:
        """What the store says of a file or folder, None where there is none."""
        with _asking(self):
            try:
                return dict(_store(self.kind).info(str(self)))
            except FileNotFoundError as error:
                if "bucket" in str(error):
                    raise
                return None


Place = Path | Remote


class _Raw(io.RawIOBase):
    """A file of a store, each read a request."""

    def __init__(self, place: Remote):
        self.place, self.size, self.at = place, place.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence] + offset
        return self.at

    def readinto(self, buffer: Any) -> int:
        data = self.place.part(self.at, max(0, min(len(buffer), self.size - self.at)))
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def place(text: str | Path) -> Place:
    """What a parameter's `text` names. Raises UserError where it is an address that nothing here can reach."""
    kind, found, rest = str(text).partition("://")
    if not found:
        return Path(text)
    if kind == "file":
        raise UserError(f"{text}: a path of this machine is written without file://")
    if kind not in EXTRAS:
        raise UserError(f"{text}: no such kind of store; s3:// and gs:// are known")
    return Remote(kind, PurePosixPath(rest.strip("/")))


def below(root: Place, path: Place) -> str:
    """The name of a file as seen from the folder `root`; of the root itself its own."""
    if path == root:
        return path.name
    return PurePosixPath(str(path)).relative_to(str(root)).as_posix()


def found_below(root: Place, pattern: str) -> list[Place]:
    """What is below a folder, in any depth, and is called like `pattern`, in order."""
    return list(sorted(root.rglob(pattern)))


def size_of(path: Place) -> int:
    """Bytes of a file."""
    return path.size() if isinstance(path, Remote) else path.stat().st_size


def put(file: Path, to: Place) -> None:
    """Have a file of this machine at `to` as well, whole or not at all."""
    if isinstance(to, Remote):
        to.put(file)
    else:
        with _half(to) as half:
            shutil.copyfile(file, half)


def put_text(text: str, to: Place) -> None:
    """Have a text (UTF-8) at `to`, whole or not at all."""
    if isinstance(to, Remote):
        to.write_text(text)
    else:
        with _half(to) as half:
            half.write_text(text, encoding="utf-8")


@contextmanager
def _half(to: Path) -> Iterator[Path]:
    """A path beside `to`, whose file takes its place when it is whole."""
    to.parent.mkdir(parents=True, exist_ok=True)
    half = to.with_name(f"{to.name}.half")
    yield half
    half.replace(to)


def side_by_side(read: Any, places: Iterable[Place]) -> list:
    """`read` of each; of many small objects of a store the time is in the waiting."""
    listed = list(places)
    if not listed or isinstance(listed[0], Path):
        return [read(each) for each in listed]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reading") as threads:
        return list(threads.map(read, listed))


def _store(kind: str) -> Any:
    """fsspec's file system. Raises UserError where it is not installed."""
    return _opened(kind, os.getpid())  # it does not outlive a fork


@lru_cache(maxsize=8)
def _opened(kind: str, process: int) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(kind)
    except ImportError:
        raise UserError(f"{kind}:// needs what reaches it: pip install 'prunella[{EXTRAS[kind]}]'") from None


def _mark(about: dict) -> str:
    """The ETag, or what else a store says."""
    named = {name.lower(): value for name, value in about.items()}
    return str(next((named[name] for name in ("etag", "md5hash", "created", "mtime") if name in named), named["size"]))


@contextmanager
def _asking(place: Remote) -> Iterator[None]:
    """Turns what goes wrong at a store into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{place}: {_said(error, place)}") from None


@contextmanager
def _reading(place: Remote) -> Iterator[None]:
    """Turns what goes wrong at a store, but for what says that there is no such file, into EIO."""
    if len(str(place.pure).encode()) > LONGEST:  # and UnicodeError of what is no UTF-8
        raise ValueError("name too long")
    try:
        yield
    except (UserError, *OF_THE_OBJECT):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in OF_OUR_DISK:
            raise
        raise OSError(errno.EIO, _said(error, place)) from None


def _said(error: Exception, place: Remote) -> str:
    """What went wrong, and what to do about it."""
    name, text = type(error).__name__, (str(error).splitlines() or [""])[0]
    bucket = place.pure.parts[0] if place.pure.parts else ""
    if "credential" in name.lower() or "credential" in text.lower():
        return (
            f"there are no credentials for {place.kind}:// ({text}); s3:// takes AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE from the environment, gs:// GOOGLE_APPLICATION_CREDENTIALS"
        )
    if isinstance(error, PermissionError):
        return f"the store refuses it ({text}); are these credentials allowed to list and read {bucket}?"
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket {bucket} ({text})"
    return f"the store failed or cannot be reached ({name}: {text[:200]})"
