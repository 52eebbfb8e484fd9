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

from prunella.data.images import LARGEST, PICTURES, RejectedImage, machine_faults, of_the_machine
from prunella.data.schema import faulty, found, of_rows
from prunella.data.sources.base import Source
from prunella.errors import UserError
from prunella.storage.remote import Place, Remote, below, found_below, place, size_of

LARGEST_TEXT = 16 << 20  # bytes of a caption or its JSON; more is none
BATCH = 16384
PIECE = 64 << 20  # bytes of captions and JSON at a time
CUT = "tar cut off or damaged"
LARGEST_HEADER = 1 << 16  # bytes of a long name or of a pax header; names and times take a few hundred
MOST_CHAINED = 8  # such headers before one member; pax and GNU writers need two or three
DIGITS = re.compile(rb"\d{65}")  # a run that Python before 3.11.10 takes quadratic time over (CVE-2024-6232)
EXTENDED = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
LONGEST_END = 1 << 16  # bytes of zeros that may end a tar; more are room that was never filled
HALF = "_tmp"  # folder of img2dataset's unfinished tars


class _Handle:
    """A file open for reading as long as anybody refers to it."""

    number = -1

    def __init__(self, path: Path):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


def files(path: Place) -> list[Place]:
    """The tars of a tar or folder, in order. Raises UserError where there is none."""
    listed: list[Place] = [path] if path.is_file() else found_below(path, "*.tar") if path.is_dir() else []
    listed = [each for each in listed if each.is_file() and each.parent.name != HALF]
    if not listed:
        packed = found_below(path, "*.tar.*") if path.is_dir() else []
        hint = (
            f"; {packed[0].name} is compressed, which gives no access to a picture by itself: unpack it"
            if packed
            else ""
        )
        raise UserError(f"filter.path: {path} is no tar, nor a folder that holds one{hint}")
    return listed


class WebDataset(Source):
    """Keys are places in tars."""

    def __init__(self, source: dict):
        self.root, self.columns = place(source["path"]), source["columns"]
        self._handle = lru_cache(maxsize=64)(_Handle)
        self._is_tar = lru_cache(maxsize=4096)(lambda path: path.suffix == ".tar" and path.is_file())

    @cached_property
    def _alone(self) -> bool:
        """Whether there is one tar, and no folder."""
        return self.root.is_file()

    def rows(self) -> Iterator[pa.Table]:
        """The rows of every tar. Of a damaged one those before the damage."""
        for tar in self._tars:
            yield from self.rows_of(tar)

    def pieces(self) -> list[str]:
        """The tars: a row takes 80 µs, since each file in a tar has a header before it."""
        return list(self._tars)

    def rows_of(self, piece: str) -> Iterator[pa.Table]:
        """The rows of a tar."""
        path = self._tars[piece]
        if self._noted and not _stats(path).is_file():
            yield faulty([piece], "tar that img2dataset has not finished")
            return
        with machine_faults(str(path)):
            rows, size = [], 0
            for row in _samples(path, piece):
                rows.append(row)
                size += row.get("bytes", 0)
                if len(rows) == BATCH or size >= PIECE:
                    yield from _batch(rows, self.columns)
                    rows, size = [], 0
            yield from _batch(rows, self.columns)

    @cached_property
    def _tars(self) -> dict[str, Place]:
        """The tars by their names below the folder."""
        return {below(self.root, path): path for path in files(self.root)}

    @cached_property
    def _noted(self) -> bool:
        """Whether img2dataset made them, which notes of each that it is whole."""
        return any(_stats(path).is_file() for path in self._tars.values())

    def read(self, key: str) -> bytes:
        inside, _, span = key.rpartition("#")
        try:
            offset, size = map(int, span.split("+"))
            if size > LARGEST:
                raise RejectedImage("file too large")
            data = self.part(self.root if self._alone else self._tar(inside), offset, size)
        except (OSError, ValueError) as error:  # ValueError: the key of a fault
            if of_the_machine(error):
                raise
            raise RejectedImage("unreadable tar") from None
        if len(data) < size:
            raise RejectedImage("tar cut off")
        return data

    def part(self, tar: Place, offset: int, size: int) -> bytes:
        """Bytes of a tar."""
        if isinstance(tar, Remote):
            return tar.part(offset, size)
        handle = self._handle(tar)  # held, or another thread's would close it
        return os.pread(handle.number, size, offset)  # no memory map: where the disk fails, it ends the process

    def _tar(self, inside: str) -> Place:
        """The tar in TAR/NAME; folders on the way to it and in it may be called .tar too."""
        parts = inside.split("/")
        for count in range(1, len(parts)):
            path = self.root / "/".join(parts[:count])
            if self._is_tar(path):
                return path
        raise FileNotFoundError(inside)


def _stats(path: Place) -> Place:
    """What img2dataset writes once a tar is whole."""
    return path.with_name(f"{path.stem}_stats.json")


def _batch(rows: list[dict], asked: dict[str, str]) -> Iterator[pa.Table]:
    for row in rows:
        if "fault" in row:
            yield faulty([row["key"]], row["fault"])
    whole = [row for row in rows if "fault" not in row]
    if not whole:
        return
    spelt = found(list(dict.fromkeys(name for row in whole for name in row["json"])), asked)
    captions = [_caption(row, spelt.get("text"), "text" in asked) for row in whole]
    yield of_rows([row["key"] for row in whole], [row["json"] for row in whole], spelt, captions)


def _caption(row: dict, column: str | None, asked: bool) -> Any:
    """The text beside the picture, or the JSON's caption, which goes first where it was asked for or is a list."""
    said = row["json"].get(column) if column else None
    return said if said is not None and (asked or isinstance(said, list) or row["txt"] is None) else row["txt"]


def _samples(path: Place, name: str) -> Iterator[dict]:
    """{"key", "txt", "json"} of each picture, or {"key", "fault"}; members of one name stand side by side."""
    held: dict | None = None
    try:
        with path.open("rb") as raw, _Tar.open(fileobj=raw, mode="r:") as tar:
            size = size_of(path)
            for member in _members(tar):
                if member.isdir():
                    continue
                if cause := _unfit(member, size):
                    yield {"key": f"{name}/{member.name}", "fault": cause}
                    continue
                stem, kind = _split(member.name)
                another = kind in PICTURES and held is not None and "key" in held
                if held is None or held["stem"] != stem or another:
                    yield from _finished(held)
                    held = {"stem": stem, "name": name, "txt": None, "json": {}}
                _add(held, member, kind, raw)
            whole = _ended(raw, tar.offset, size)
    except Exception as error:  # of damaged headers tarfile raises many kinds
        if of_the_machine(error):
            raise
        whole = False
    yield from _finished(held)
    if not whole:  # what came before is not lost
        yield {"key": name, "fault": CUT}


class _Member(tarfile.TarInfo):
    """A header that is refused before `tarfile` reads what it claims."""

    def _proc_member(self, tar: "_Tar") -> tarfile.TarInfo:
        tar.chained = chained = tar.chained + 1 if self.type in EXTENDED else 0
        if self.size < 0 or chained > MOST_CHAINED or (chained and self.size > LARGEST_HEADER):
            raise tarfile.ReadError("header out of bounds")
        if chained:
            start = tar.fileobj.tell()
            if DIGITS.search(tar.fileobj.read(self.size)):
                raise tarfile.ReadError("number out of bounds")
            tar.fileobj.seek(start)
        return super()._proc_member(tar)  # type: ignore[misc]  # tarfile's own hook, but without a type


class _Tar(tarfile.TarFile):
    """`chained` headers came before this one; `members` are those that tarfile keeps."""

    tarinfo = _Member
    chained: int = 0
    members: list[tarfile.TarInfo]


def _members(tar: _Tar) -> Iterator[tarfile.TarInfo]:
    """The members, each behind the one before, and none kept."""
    end = 0
    while member := tar.next():
        if member.size < 0 or tar.offset <= end:
            raise tarfile.ReadError("member out of bounds")
        end, tar.members = tar.offset, []
        yield member


def _ended(raw: BinaryIO, offset: int, size: int) -> bool:
    """Whether the tar ends where it was read to, in two empty blocks or more: tarfile stops at any odd header."""
    if not 1024 <= size - offset <= LONGEST_END:
        return False
    raw.seek(offset)
    return not any(raw.read())


def _split(name: str) -> tuple[str, str]:
    """Name, up to the first dot after the last slash as webdataset has it, and kind, from the last dot on."""
    path = PurePosixPath(name)
    return str(path.parent / path.name.partition(".")[0]), path.suffix.lower()


def _unfit(member: tarfile.TarInfo, size: int) -> str | None:
    if not member.isreg() or member.issparse():
        return "link, device or other special member of a tar"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "name that leads out of the tar"
    return CUT if member.offset_data + member.size > size else None


def _add(held: dict, member: tarfile.TarInfo, kind: str, raw: BinaryIO) -> None:
    if kind in PICTURES:
        held["key"] = f"{held['name']}/{member.name}#{member.offset_data}+{member.size}"
    elif kind in (".txt", ".json") and member.size <= LARGEST_TEXT:
        back = raw.tell()
        raw.seek(member.offset_data)
        data = raw.read(member.size)
        raw.seek(back)
        held[kind.removeprefix(".")] = data if kind == ".txt" else _object(data)
        held["bytes"] = held.get("bytes", 0) + member.size


def _object(data: bytes) -> dict:
    """What a JSON says, if it is an object."""
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _finished(held: dict | None) -> Iterator[dict]:
    if held is not None:
        yield held if "key" in held else {"key": f"{held['name']}/{held['stem']}", "fault": "caption without picture"}
