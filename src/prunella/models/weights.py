"""Weight files on disk, looked at without loading them: whole or cut off, complete or not, finite, pickle or not.

The format is safetensors': eight bytes of the header's length, the header as JSON (name → dtype, shape, offsets), data.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict  # typing's own is refused by pydantic before Python 3.12

from prunella.errors import UserError
from prunella.params import typed
from prunella.storage.files import parse_json, read_json

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
SAFE = ".safetensors"
INDEX = ".safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
# Bytes of a number by its dtype's name in a header.
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
# Bits that are all set in NaN and in infinite numbers, and in no other (IEEE 754's exponent; F8_E4M3 has NaN alone).
NOT_FINITE = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
CHUNK = 1 << 22  # numbers that are looked at together

Place = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(strict=True))
class Entry(TypedDict):
    """A tensor's place in its file; offsets in bytes, from the header's end."""

    dtype: str
    shape: Annotated[list[Place], Field(max_length=16)]
    data_offsets: Annotated[list[Place], Field(min_length=2, max_length=2)]


HEADER = TypeAdapter(dict[str, Entry])


@with_config(ConfigDict(strict=True))
class Index(TypedDict):
    """Which shard holds which tensor."""

    weight_map: dict[str, str]


def header(path: Path) -> dict[str, Entry]:
    """Name → {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises UserError that names the file where it is not whole or no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{path}: is no whole safetensors file: {size} bytes, too short for its header")
        if length > LONGEST_HEADER:
            raise UserError(f"{path}: is no safetensors file: a header of {length} bytes; {LONGEST_HEADER} are allowed")
        text = file.read(length)
    entries = parse_json(text, f"{path}: is no safetensors file: its header is not valid JSON")
    if isinstance(entries, dict):
        entries.pop("__metadata__", None)
    entries = typed(HEADER, entries, f"{path}: is no safetensors file: its header")
    _check_places(path, entries, size - 8 - length, size)
    return entries


def _check_places(path: Path, entries: dict[str, Entry], there: int, size: int) -> None:
    """The tensors fill the file's `there` bytes of data one after the other, each as large as its shape says."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if entry["dtype"] not in BYTES:
            raise UserError(f"{path}: tensor {name} is of dtype {entry['dtype']!r}; known are {', '.join(BYTES)}")
        if first != end or last - first != math.prod(entry["shape"]) * BYTES[entry["dtype"]]:
            raise UserError(
                f"{path}: tensor {name} of shape {entry['shape']} and dtype {entry['dtype']} cannot lie at bytes "
                f"{first} to {last}; the one before it ends at {end}"
            )
        end = last
    if there < end:
        raise UserError(f"{path}: is cut off: {size} of {size - there + end} bytes; fetch it again")
    if there > end:
        raise UserError(f"{path}: has {there - end} bytes after its last tensor; fetch it again")


def check_finite(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Read a safetensors file's tensors once, mapped and not loaded.

    Raises UserError that names file and tensor where one whose name is `wanted` holds NaN or infinite numbers.
    """
    entries = header(path)
    if not any(math.prod(entry["shape"]) for entry in entries.values()):
        return
    start = path.stat().st_size - max(entry["data_offsets"][1] for entry in entries.values())
    content = np.memmap(path, np.uint8, mode="r", offset=start)
    for name, entry in entries.items():
        if entry["dtype"] in NOT_FINITE and wanted(name):
            first, last = entry["data_offsets"]
            kind, bits = NOT_FINITE[entry["dtype"]]
            if bad := _not_finite(content[first:last].view(kind), bits):
                raise UserError(not_finite(path, name, bad, math.prod(entry["shape"])))


def _not_finite(numbers: np.ndarray, bits: int) -> int:
    """How many of the numbers, seen as integers, have all of `bits` set."""
    wanted = numbers.dtype.type(bits)
    chunks = (numbers[i : i + CHUNK] & wanted for i in range(0, len(numbers), CHUNK))
    return sum(int((chunk == wanted).sum()) for chunk in chunks if chunk.max() == wanted)


def not_finite(path: Path, name: str, bad: int, of: int) -> str:
    """What is said of a tensor with numbers that are none."""
    return f"{path}: tensor {name} holds NaN or infinite numbers ({bad} of {of}); fetch the file again, or another"


def check_part(folder: Path, allow_pickle: bool, stem: str) -> list[Path]:
    """The weight files that stock loading may take for a model's folder (unet, vae, a text encoder), headers checked.

    `stem` is what its library calls them: "diffusion_pytorch_model" (diffusers) or "model" (transformers). A
    .safetensors file of another name is no reason to think that one is taken, since the loaders would then take the
    pickle beside it. Raises UserError naming file and fault, and for pickles unless `allow_pickle`.
    """
    whole, index = folder / f"{stem}{SAFE}", folder / f"{stem}{INDEX}"
    pickled = sorted(path for path in folder.glob("*") if path.suffix in PICKLES)
    if not whole.is_file() and not index.is_file():
        if not pickled:
            others = ", ".join(sorted(path.name for path in folder.glob(f"*{SAFE}")))
            instead = f"; {others} there is not loaded" if others else ""
            raise UserError(f"{folder}: holds no weights; {whole.name} is expected there{instead}")
        if not allow_pickle:
            refuse_pickle(pickled[0])
        return pickled
    shards = _check_shards(index) if index.is_file() else []
    files = ([whole] if whole.is_file() else []) + shards
    for path in files:
        header(path)
    return files


def refuse_pickle(path: Path) -> None:
    """Raises UserError that says what a pickle may do, and what to do instead."""
    raise UserError(
        f"{path}: is a pickle, and loading one can run any code that was put into it; take the .safetensors version, "
        "or set teacher.allow_pickle: true where you trust its maker"
    )


def _check_shards(index: Path) -> list[Path]:
    """The shards that an index names; each must be a safetensors file beside it, and hold what the index says."""
    places = typed(TypeAdapter(Index), read_json(index), f"{index}: is no index of weights")["weight_map"]
    shards = []
    for name in sorted(set(places.values())):
        shard = index.with_name(name) if Path(name).name == name else None
        if shard is None or shard.suffix != SAFE:
            raise UserError(f"{index}: names {name!r} as a shard; a {SAFE} file beside it is expected")
        if not shard.is_file():
            raise UserError(f"{shard}: is missing; {index.name} says that weights are in it")
        there = header(shard)
        lost = [key for key, place in places.items() if place == name and key not in there]
        if lost:
            raise UserError(f"{shard}: has no {lost[0]} ({len(lost)} missing in all), which {index.name} says it has")
        shards.append(shard)
    return shards
