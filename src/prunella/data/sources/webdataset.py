"""Pairs in tars, as img2dataset writes them: NAME.jpg (or png, webp), NAME.txt and NAME.json side by side.

Nothing is unpacked: a picture's key is TAR/NAME#OFFSET+SIZE, and its bytes are read from there. Headers are limited,
since `tarfile` believes them: one of 512 bytes can ask for any amount of memory, or lead the reader back to where it
was.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import pyarrow as pa

from prunella.data.images import IMAGE_SUFFIXES, MAX_FILE_BYTES, RejectedImage, is_system_error, raise_system_errors
from prunella.data.schema import make_fault_rows, match_columns, rows_to_table
from prunella.data.sources.base import Source
from prunella.errors import UserError
from prunella.storage.remote import PathOrRemote, RemotePath, file_size, parse_location, relative_name, rglob_sorted

MAX_TEXT_BYTES = 16 << 20  # bytes of a caption or its JSON; more is none
BATCH = 16384
PIECE_BYTES = 64 << 20  # bytes of captions and JSON at a time
TAR_DAMAGED = "tar cut off or damaged"
MAX_HEADER_BYTES = 1 << 16  # bytes of a long name or of a pax header; names and times take a few hundred
MAX_CHAINED_HEADERS = 8  # such headers before one member; pax and GNU writers need two or three
LONG_DIGIT_RUN = re.compile(rb"\d{65}")  # a run that Python before 3.11.10 takes quadratic time over (CVE-2024-6232)
EXTENDED_HEADER_TYPES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
MAX_PADDING_BYTES = 1 << 16  # bytes of zeros that may end a tar; more are room that was never filled
UNFINISHED_DIR = "_tmp"  # folder of img2dataset's unfinished tars


class _Handle:
    """A file open for reading as long as anybody refers to it."""

    fd = -1

    def __init__(self, path: Path):
        self.fd = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def list_tars(path: PathOrRemote) -> list[PathOrRemote]:
    """The tars of a tar or folder, in order. Raises UserError where there is none."""
    tars: list[PathOrRemote] = [path] if path.is_file() else rglob_sorted(path, "*.tar") if path.is_dir() else []
    tars = [tar for tar in tars if tar.is_file() and tar.parent.name != UNFINISHED_DIR]
    if not tars:
        compressed_tars = rglob_sorted(path, "*.tar.*") if path.is_dir() else []
        hint = (
            f"; {compressed_tars[0].name} is compressed, which gives no access to a picture by itself: unpack it"
            if compressed_tars
            else ""
        )
        raise UserError(f"filter.path: {path} is no tar, nor a folder that holds one{hint}")
    return tars


class WebDataset(Source):
    """Keys are places in tars."""

    def __init__(self, source: dict):
        self.root, self.columns = parse_location(source["path"]), source["columns"]
        self._handle = lru_cache(maxsize=64)(_Handle)
        self._is_tar = lru_cache(maxsize=4096)(lambda path: path.suffix == ".tar" and path.is_file())

    @cached_property
    def _is_single_tar(self) -> bool:
        """Whether there is one tar, and no folder."""
        return self.root.is_file()

    def iter_rows(self) -> Iterator[pa.Table]:
        """The rows of every tar. For a damaged one, those before the damage."""
        for tar in self._tars:
            yield from self.iter_shard_rows(tar)

    def shard_names(self) -> list[str]:
        """The tars: a row takes 80 µs, since each file in a tar has a header before it."""
        return list(self._tars)

    def iter_shard_rows(self, shard: str) -> Iterator[pa.Table]:
        """The rows of a tar."""
        path = self._tars[shard]
        if self._has_stats_files and not _stats_path(path).is_file():
            yield make_fault_rows([shard], "tar that img2dataset has not finished")
            return
        with raise_system_errors(str(path)):
            rows, size = [], 0
            for row in _iter_samples(path, shard):
                rows.append(row)
                size += row.get("bytes", 0)
                if len(rows) == BATCH or size >= PIECE_BYTES:
                    yield from _rows_to_tables(rows, self.columns)
                    rows, size = [], 0
            yield from _rows_to_tables(rows, self.columns)

    @cached_property
    def _tars(self) -> dict[str, PathOrRemote]:
        """The tars by their names below the folder."""
        return {relative_name(self.root, path): path for path in list_tars(self.root)}

    @cached_property
    def _has_stats_files(self) -> bool:
        """Whether img2dataset made them, which notes of each that it is whole."""
        return any(_stats_path(path).is_file() for path in self._tars.values())

    def read_image_bytes(self, key: str) -> bytes:
        member_path, _, span = key.rpartition("#")
        try:
            offset, size = map(int, span.split("+"))
            if size > MAX_FILE_BYTES:
                raise RejectedImage("file too large")
            data = self.read_range(self.root if self._is_single_tar else self._find_tar(member_path), offset, size)
        except (OSError, ValueError) as error:  # ValueError: the key of a fault
            if is_system_error(error):
                raise
            raise RejectedImage("unreadable tar") from None
        if len(data) < size:
            raise RejectedImage("tar cut off")
        return data

    def read_range(self, tar: PathOrRemote, offset: int, size: int) -> bytes:
        """Bytes of a tar."""
        if isinstance(tar, RemotePath):
            return tar.read_range(offset, size)
        handle = self._handle(tar)  # held, or another thread's would close it
        return os.pread(handle.fd, size, offset)  # no memory map: where the disk fails, it ends the process

    def _find_tar(self, member_path: str) -> PathOrRemote:
        """The tar in TAR/NAME; folders on the way to it and in it may be called .tar too."""
        segments = member_path.split("/")
        for count in range(1, len(segments)):
            path = self.root / "/".join(segments[:count])
            if self._is_tar(path):
                return path
        raise FileNotFoundError(member_path)


def _stats_path(path: PathOrRemote) -> PathOrRemote:
    """The statistics that img2dataset writes once a tar is whole."""
    return path.with_name(f"{path.stem}_stats.json")


def _rows_to_tables(rows: list[dict], overrides: dict[str, str]) -> Iterator[pa.Table]:
    for row in rows:
        if "fault" in row:
            yield make_fault_rows([row["key"]], row["fault"])
    valid_rows = [row for row in rows if "fault" not in row]
    if not valid_rows:
        return
    column_map = match_columns(list(dict.fromkeys(name for row in valid_rows for name in row["json"])), overrides)
    captions = [_choose_caption(row, column_map.get("text"), "text" in overrides) for row in valid_rows]
    yield rows_to_table([row["key"] for row in valid_rows], [row["json"] for row in valid_rows], column_map, captions)


def _choose_caption(row: dict, column: str | None, prefer_json: bool) -> Any:
    """The text beside the picture, or the JSON's caption, which goes first where it was asked for or is a list."""
    caption = row["json"].get(column) if column else None
    return (
        caption
        if caption is not None and (prefer_json or isinstance(caption, list) or row["txt"] is None)
        else row["txt"]
    )


def _iter_samples(path: PathOrRemote, name: str) -> Iterator[dict]:
    """{"key", "txt", "json"} of each picture, or {"key", "fault"}; members of one name stand side by side."""
    current: dict | None = None
    try:
        with path.open("rb") as raw, _CheckedTarFile.open(fileobj=raw, mode="r:") as tar:
            size = file_size(path)
            for member in _iter_members(tar):
                if member.isdir():
                    continue
                if cause := _find_member_fault(member, size):
                    yield {"key": f"{name}/{member.name}", "fault": cause}
                    continue
                stem, kind = _split_member_name(member.name)
                starts_new = kind in IMAGE_SUFFIXES and current is not None and "key" in current
                if current is None or current["stem"] != stem or starts_new:
                    yield from _finish_sample(current)
                    current = {"stem": stem, "name": name, "txt": None, "json": {}}
                _add_member(current, member, kind, raw)
            complete = _ends_cleanly(raw, tar.offset, size)
    except Exception as error:  # of damaged headers tarfile raises many kinds
        if is_system_error(error):
            raise
        complete = False
    yield from _finish_sample(current)
    if not complete:  # what came before is not lost
        yield {"key": name, "fault": TAR_DAMAGED}


class _CheckedTarInfo(tarfile.TarInfo):
    """A header that is refused before `tarfile` reads what it claims."""

    def _proc_member(self, tar: "_CheckedTarFile") -> tarfile.TarInfo:
        tar.num_chained = num_chained = tar.num_chained + 1 if self.type in EXTENDED_HEADER_TYPES else 0
        if self.size < 0 or num_chained > MAX_CHAINED_HEADERS or (num_chained and self.size > MAX_HEADER_BYTES):
            raise tarfile.ReadError("header out of bounds")
        if num_chained:
            start = tar.fileobj.tell()
            if LONG_DIGIT_RUN.search(tar.fileobj.read(self.size)):
                raise tarfile.ReadError("number out of bounds")
            tar.fileobj.seek(start)
        return super()._proc_member(tar)  # type: ignore[misc]  # tarfile's own hook, but without a type


class _CheckedTarFile(tarfile.TarFile):
    """`num_chained` headers came before this one; `members` are those that tarfile keeps."""

    tarinfo = _CheckedTarInfo
    num_chained: int = 0
    members: list[tarfile.TarInfo]


def _iter_members(tar: _CheckedTarFile) -> Iterator[tarfile.TarInfo]:
    """The members, each behind the one before, and none kept."""
    end = 0
    while member := tar.next():
        if member.size < 0 or tar.offset <= end:
            raise tarfile.ReadError("member out of bounds")
        end, tar.members = tar.offset, []
        yield member


def _ends_cleanly(raw: BinaryIO, offset: int, size: int) -> bool:
    """Whether the tar ends where it was read to, in two empty blocks or more: tarfile stops at any odd header."""
    if not 1024 <= size - offset <= MAX_PADDING_BYTES:
        return False
    raw.seek(offset)
    return not any(raw.read())


def _split_member_name(name: str) -> tuple[str, str]:
    """Name, up to the first dot after the last slash as webdataset has it, and kind, from the last dot on."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.partition(".")[0]), path.suffix.lower()


def _find_member_fault(member: tarfile.TarInfo, size: int) -> str | None:
    if not member.isreg() or member.issparse():
        return "link, device or other special member of a tar"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "name that leads out of the tar"
    return TAR_DAMAGED if member.offset_data + member.size > size else None


def _add_member(current: dict, member: tarfile.TarInfo, kind: str, raw: BinaryIO) -> None:
    if kind in IMAGE_SUFFIXES:
        current["key"] = f"{current['name']}/{member.name}#{member.offset_data}+{member.size}"
    elif kind in (".txt", ".json") and member.size <= MAX_TEXT_BYTES:
        position = raw.tell()
        raw.seek(member.offset_data)
        data = raw.read(member.size)
        raw.seek(position)
        current[kind.removeprefix(".")] = data if kind == ".txt" else _parse_json_object(data)
        current["bytes"] = current.get("bytes", 0) + member.size


def _parse_json_object(data: bytes) -> dict:
    """The content of a JSON text, if it is an object."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _finish_sample(current: dict | None) -> Iterator[dict]:
    if current is not None:
        yield (
            current
            if "key" in current
            else {"key": f"{current['name']}/{current['stem']}", "fault": "caption without picture"}
        )
