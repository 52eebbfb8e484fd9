"""Pairs in tars, as img2dataset writes them: NAME.jpg (or png, webp), NAME.txt and NAME.json side by side.

Nothing is unpacked: a picture's key is TAR/NAME#OFFSET+SIZE, and its bytes are read from there.
"""

import json
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath

import pyarrow as pa

from prunella.errors import UserError
from prunella.samples.columns import canonical, faulty, found
from prunella.samples.pictures import Unfit

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
LARGEST_TEXT = 16 << 20  # bytes of a caption or its JSON; more is none
BATCH = 16384
CUT = "tar cut off or damaged"
HALF = "_tmp"  # folder in which img2dataset has what it is at


def files(path: Path) -> list[Path]:
    """The tars of a tar or folder, in order. Raises UserError where there is none."""
    listed = [path] if path.is_file() else sorted(path.rglob("*.tar")) if path.is_dir() else []
    listed = [each for each in listed if each.parent.name != HALF]
    if not listed:
        packed = path.is_dir() and next(path.rglob("*.tar.*"), None)
        hint = (
            f"; {packed.name} is compressed, which gives no access to a picture by itself: unpack it" if packed else ""
        )
        raise UserError(f"filter.path: {path} is no tar, nor a folder that holds one{hint}")
    return listed


def index(source: dict) -> Iterator[pa.Table]:
    """The rows of every tar, keyed by place."""
    root = Path(source["path"])
    listed = files(root)
    noted = any(_stats(path).is_file() for path in listed)
    for path in listed:
        name = path.name if path == root else path.relative_to(root).as_posix()
        rows: list[dict] = []
        if noted and not _stats(path).is_file():
            yield faulty([name], "tar that img2dataset has not finished")
            continue
        for row in _samples(path, name):
            rows.append(row)
            if len(rows) == BATCH:
                yield from _batch(rows, source["columns"])
                rows = []
        yield from _batch(rows, source["columns"])


def reader(source: dict):
    """Key → bytes. Raises Unfit for what cannot be read."""
    root = Path(source["path"])

    @lru_cache(maxsize=64)
    def mapped(path: Path) -> mmap:
        with path.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)

    def fetch(key: str) -> bytes:
        place, _, span = key.rpartition("#")
        offset, size = map(int, span.split("+"))
        try:
            data = mapped(root if root.is_file() else _tar(root, place))[offset : offset + size]
        except (OSError, ValueError):  # ValueError: an empty file
            raise Unfit("unreadable tar") from None
        if len(data) < size:
            raise Unfit("tar cut off")
        return data

    return fetch


def _stats(path: Path) -> Path:
    """What img2dataset writes once a tar is whole."""
    return path.with_name(f"{path.stem}_stats.json")


def _tar(root: Path, place: str) -> Path:
    """The tar in TAR/NAME: names in a tar may have folders too, tars are told by their ending."""
    head, _, _ = place.partition(".tar/")
    return root / f"{head}.tar"


def _batch(rows: list[dict], asked: dict[str, str]) -> Iterator[pa.Table]:
    wrong = [row for row in rows if "fault" in row]
    for row in wrong:
        yield faulty([row["key"]], row["fault"])
    whole = [row for row in rows if "fault" not in row]
    if not whole:
        return
    names = list(dict.fromkeys(name for row in whole for name in row["json"]))
    spelt = found(names, {ours: name for ours, name in asked.items() if ours != "image"})
    spelt.pop("image", None)
    captions = [_caption(row, spelt.get("text"), "text" in asked) for row in whole]
    columns = {name: [row["json"].get(name) for row in whole] for ours, name in spelt.items() if ours != "text"}
    raw = pa.table({"\0caption": _column(captions), **{name: _column(values) for name, values in columns.items()}})
    keys = pa.array([row["key"] for row in whole])
    yield canonical(raw, spelt | {"text": "\0caption"}, keys).replace_schema_metadata({"columns": ", ".join(names)})


def _caption(row: dict, column: str | None, asked: bool):
    """The text beside the picture, or the JSON's caption, which goes first where it was asked for or is a list."""
    said = row["json"].get(column) if column else None
    return said if said is not None and (asked or isinstance(said, list) or row["txt"] is None) else row["txt"]


def _column(values: list) -> pa.Array:
    if any(isinstance(value, list) for value in values):
        lists = [value if isinstance(value, list) else [value] for value in values]
        return pa.array([[_bytes(each) for each in value] for value in lists], pa.list_(pa.binary()))
    if any(isinstance(value, str | bytes | dict) for value in values):
        return pa.array([_bytes(value) for value in values], pa.binary())
    return pa.array(values, pa.float64(), from_pandas=True)


def _bytes(value) -> bytes | None:
    return (
        value.encode(errors="surrogatepass") if isinstance(value, str) else value if isinstance(value, bytes) else None
    )


def _samples(path: Path, name: str) -> Iterator[dict]:
    """{"key", "txt", "json"} of each picture, or {"key", "fault"}; members of one name stand side by side."""
    held: dict | None = None
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
            size = path.stat().st_size
            for member in tar:
                if member.isdir():
                    continue
                if cause := _unfit(member, size):
                    yield {"key": f"{name}/{member.name}", "fault": cause}
                    continue
                stem, kind = _split(member.name)
                if held is None or held["stem"] != stem:
                    yield from _finished(held)
                    held = {"stem": stem, "name": name, "txt": None, "json": {}}
                yield from _add(held, member, kind, raw)
            whole = _ended(raw, size)
    except (tarfile.TarError, OSError, ValueError, EOFError):
        whole = False
    yield from _finished(held)
    if not whole:  # what came before is not lost
        yield {"key": name, "fault": CUT}


def _ended(raw, size: int) -> bool:
    """Whether the tar has its end, two empty blocks; without, tarfile says nothing of a header that was cut off."""
    raw.seek(max(0, size - 1024))
    return raw.read() == bytes(1024)


def _split(name: str) -> tuple[str, str]:
    """Name and kind, parted at the first dot after the last slash, as webdataset does."""
    path = PurePosixPath(name)
    stem, _, kind = path.name.partition(".")
    return str(path.parent / stem), kind.lower()


def _unfit(member: tarfile.TarInfo, size: int) -> str | None:
    if not member.isreg():
        return "link, device or other special member of a tar"
    if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
        return "name that leads out of the tar"
    return CUT if member.offset_data + member.size > size else None


def _add(held: dict, member: tarfile.TarInfo, kind: str, raw) -> Iterator[dict]:
    if kind in PICTURES:
        key = f"{held['name']}/{member.name}#{member.offset_data}+{member.size}"
        if "key" in held:
            yield {"key": key, "fault": "second picture of one name"}
        else:
            held["key"] = key
        return
    if kind not in ("txt", "json") or member.size > LARGEST_TEXT:
        return
    back = raw.tell()
    raw.seek(member.offset_data)
    data = raw.read(member.size)
    raw.seek(back)
    if kind == "txt":
        held["txt"] = data
        return
    try:
        said = json.loads(data)
        held["json"] = said if isinstance(said, dict) else {}
    except (ValueError, RecursionError):
        held["json"] = {}


def _finished(held: dict | None) -> Iterator[dict]:
    if held is not None:
        yield held if "key" in held else {"key": f"{held['name']}/{held['stem']}", "fault": "caption without picture"}
