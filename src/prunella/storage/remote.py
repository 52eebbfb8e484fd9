"""Places that parameters name: paths of this machine, and addresses on object stores.

A store is reached through fsspec, which asks the environment where it is and who we are (AWS_ENDPOINT_URL, AWS_PROFILE,
GOOGLE_APPLICATION_CREDENTIALS, …): no parameter says that. Errors of a store have many kinds, of which few are
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

PIP_EXTRAS = {
    "s3": "s3",
    "gs": "gs",
    "memory": "",
}  # kinds of address, and what is to be installed; memory is for tests
READ_AHEAD = 8 << 20  # bytes that are asked for at once where a file is read through
MAX_KEY_BYTES = 1024  # bytes of an object's name
MAX_CONCURRENT = 32  # small objects that are waited for side by side
LOCAL_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
OBJECT_ERRORS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, MemoryError)


@dataclass(frozen=True, order=True)
class RemotePath:
    """A file or a folder on an object store, with what Path has for reading. Names come in Path's order."""

    scheme: str  # s3
    key: PurePosixPath  # bucket/folder/file
    listed_size: int | None = field(default=None, compare=False)  # bytes, of a file that was listed

    def __str__(self) -> str:
        return f"{self.scheme}://{self.key}"

    def __truediv__(self, name: str | PurePosixPath) -> "RemotePath":
        return RemotePath(self.scheme, self.key / name)

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def stem(self) -> str:
        return self.key.stem

    @property
    def suffix(self) -> str:
        return self.key.suffix

    @property
    def parent(self) -> "RemotePath":
        return RemotePath(self.scheme, self.key.parent)

    def with_name(self, name: str) -> "RemotePath":
        return RemotePath(self.scheme, self.key.with_name(name))

    def with_suffix(self, suffix: str) -> "RemotePath":
        return RemotePath(self.scheme, self.key.with_suffix(suffix))

    def relative_to(self, root: "RemotePath") -> PurePosixPath:
        return self.key.relative_to(root.key)

    def is_file(self) -> bool:
        """Raises UserError, as all that ask do, where the store cannot be asked."""
        return self.listed_size is not None or (self._stat() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        return (self._stat() or {}).get("type") == "directory"

    def exists(self) -> bool:
        return self._stat() is not None

    def rglob(self, pattern: str) -> Iterator["RemotePath"]:
        """The files below whose names are like `pattern`; folders, of which a store has none, are left out."""
        for path, info in self._list_files().items():
            if fnmatch(path.name, pattern):
                yield RemotePath(self.scheme, path, info["size"])

    def etags(self) -> dict[str, str]:
        """For every file below, or for the file itself, a value that changes when its content does, as the store has
        it now."""
        by_path = {f"{self.scheme}://{path}": _etag(info) for path, info in self._list_files().items()}
        return by_path or {str(self): _etag(info) for info in [self._stat()] if info}

    def size(self) -> int:
        """Bytes of a file. Raises FileNotFoundError, and OSError where the store fails, as all that read do."""
        if self.listed_size is not None:
            return self.listed_size
        with _io_errors(self):
            return int(_filesystem(self.scheme).info(str(self))["size"])

    def read_range(self, start: int, count: int) -> bytes:
        """`count` bytes of a file from `start` on, or as many as there are."""
        if start < 0 or count < 0:
            raise ValueError(f"{count} bytes from {start} on")
        if not count:
            return b""
        with _io_errors(self):
            try:
                return bytes(_filesystem(self.scheme).cat_file(str(self), start=start, end=start + count))
            except OSError as error:
                if error.errno == errno.EINVAL and "range" in str(error):  # there is no byte at `start`
                    return b""
                raise

    def read_bytes(self) -> bytes:
        with _io_errors(self):
            return bytes(_filesystem(self.scheme).cat_file(str(self)))

    def download(self, to: Path) -> None:
        """Write the file to a path of this machine."""
        with _io_errors(self):
            _filesystem(self.scheme).get_file(str(self), str(to))

    def upload(self, file: Path) -> None:
        """Have the store hold a file of this machine here, whole or not at all. Raises UserError where it fails."""
        with _user_errors(self):
            _filesystem(self.scheme).put_file(str(file), str(self))

    def write_text(self, text: str) -> None:
        """Like `upload`, of a text (UTF-8)."""
        with _user_errors(self):
            _filesystem(self.scheme).pipe_file(str(self), text.encode())

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The file, to be read through; what is skipped over is read as well, up to AHEAD bytes."""
        assert mode == "rb"
        return io.BufferedReader(self.open_raw(), READ_AHEAD)

    def open_raw(self) -> io.RawIOBase:
        """The file; each read of it asks the store."""
        return _RemoteFile(self)

    def _list_files(self) -> dict[PurePosixPath, dict]:
        with _user_errors(self):
            _filesystem(self.scheme).invalidate_cache()  # others write to it too
            listing = _filesystem(self.scheme).find(str(self), detail=True)
        by_key = {PurePosixPath(name.lstrip("/")): info for name, info in listing.items()}
        return {path: info for path, info in sorted(by_key.items()) if path != self.key}

    def _stat(self) -> dict | None:
        """Everything that the store says of a file or folder, None where there is none."""
        with _user_errors(self):
            try:
                return dict(_filesystem(self.scheme).info(str(self)))
            except FileNotFoundError as error:
                if "bucket" in str(error):
                    raise
                return None


PathOrRemote = Path | RemotePath


class _RemoteFile(io.RawIOBase):
    """A file of a store, each read a request."""

    def __init__(self, remote: RemotePath):
        self.remote, self.size, self.position = remote, remote.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence] + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        data = self.remote.read_range(self.position, max(0, min(len(buffer), self.size - self.position)))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def parse_location(text: str | Path) -> PathOrRemote:
    """The place that a parameter's text names. Raises UserError where it is an address that nothing here can reach."""
    scheme, separator, key = str(text).partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        raise UserError(f"{text}: a path of this machine is written without file://")
    if scheme not in PIP_EXTRAS:
        raise UserError(f"{text}: no such kind of store; s3:// and gs:// are known")
    return RemotePath(scheme, PurePosixPath(key.strip("/")))


def relative_name(root: PathOrRemote, path: PathOrRemote) -> str:
    """The name of a file as seen from the folder `root`; of the root itself its own."""
    if path == root:
        return path.name
    return PurePosixPath(str(path)).relative_to(str(root)).as_posix()


def rglob_sorted(root: PathOrRemote, pattern: str) -> list[PathOrRemote]:
    """What is below a folder, in any depth, and is called like `pattern`, in order."""
    return list(sorted(root.rglob(pattern)))


def file_size(path: PathOrRemote) -> int:
    """Bytes of a file."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def upload_file(file: Path, to: PathOrRemote) -> None:
    """Have a file of this machine at `to` as well, whole or not at all."""
    if isinstance(to, RemotePath):
        to.upload(file)
    else:
        with _atomic_path(to) as tmp_path:
            shutil.copyfile(file, tmp_path)


def upload_text(text: str, to: PathOrRemote) -> None:
    """Have a text (UTF-8) at `to`, whole or not at all."""
    if isinstance(to, RemotePath):
        to.write_text(text)
    else:
        with _atomic_path(to) as tmp_path:
            tmp_path.write_text(text, encoding="utf-8")


@contextmanager
def _atomic_path(to: Path) -> Iterator[Path]:
    """A path beside `to`, whose file takes its place when it is whole."""
    to.parent.mkdir(parents=True, exist_ok=True)
    tmp_path = to.with_name(f"{to.name}.half")
    yield tmp_path
    tmp_path.replace(to)


def map_concurrently(function: Any, paths: Iterable[PathOrRemote]) -> list:
    """`function` of each; of many small objects of a store the time is in the waiting."""
    path_list = list(paths)
    if not path_list or isinstance(path_list[0], Path):
        return [function(path) for path in path_list]
    with ThreadPoolExecutor(MAX_CONCURRENT, thread_name_prefix="reading") as pool:
        return list(pool.map(function, path_list))


def _filesystem(scheme: str) -> Any:
    """fsspec's file system. Raises UserError where it is not installed."""
    return _open_filesystem(scheme, os.getpid())  # it does not outlive a fork


@lru_cache(maxsize=8)
def _open_filesystem(scheme: str, pid: int) -> Any:
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError:
        raise UserError(f"{scheme}:// needs what reaches it: pip install 'prunella[{PIP_EXTRAS[scheme]}]'") from None


def _etag(info: dict) -> str:
    """The ETag, or what else a store says."""
    lowercase = {name.lower(): value for name, value in info.items()}
    return str(
        next(
            (lowercase[name] for name in ("etag", "md5hash", "created", "mtime") if name in lowercase),
            lowercase["size"],
        )
    )


@contextmanager
def _user_errors(remote: RemotePath) -> Iterator[None]:
    """Turns what goes wrong at a store into one line."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        raise UserError(f"{remote}: {_format_store_error(error, remote)}") from None


@contextmanager
def _io_errors(remote: RemotePath) -> Iterator[None]:
    """Turns what goes wrong at a store, but for what says that there is no such file, into EIO."""
    if len(str(remote.key).encode()) > MAX_KEY_BYTES:  # and UnicodeError of what is no UTF-8
        raise ValueError("name too long")
    try:
        yield
    except (UserError, *OBJECT_ERRORS):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in LOCAL_DISK_ERRNOS:
            raise
        raise OSError(errno.EIO, _format_store_error(error, remote)) from None


def _format_store_error(error: Exception, remote: RemotePath) -> str:
    """The error and its remedy."""
    name, text = type(error).__name__, (str(error).splitlines() or [""])[0]
    bucket = remote.key.parts[0] if remote.key.parts else ""
    if "credential" in name.lower() or "credential" in text.lower():
        return (
            f"there are no credentials for {remote.scheme}:// ({text}); s3:// takes AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or AWS_PROFILE from the environment, gs:// GOOGLE_APPLICATION_CREDENTIALS"
        )
    if isinstance(error, PermissionError):
        return f"the store refuses it ({text}); are these credentials allowed to list and read {bucket}?"
    if isinstance(error, FileNotFoundError):
        return f"there is no bucket {bucket} ({text})"
    return f"the store failed or cannot be reached ({name}: {text[:200]})"
