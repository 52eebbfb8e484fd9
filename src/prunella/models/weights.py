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
from prunella.params import validate_as
from prunella.storage.files import parse_json, read_json

PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
SAFETENSORS_SUFFIX = ".safetensors"
INDEX_SUFFIX = ".safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # bytes, the format's own limit
# Bytes of a number by its dtype's name in a header.
BYTES_PER_NUMBER = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
BYTES_PER_NUMBER |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}
# Bits that are all set in NaN and in infinite numbers, and in no other (IEEE 754's exponent; F8_E4M3 has NaN alone).
NONFINITE_BITS = {
    "F64": ("<u8", 0x7FF0000000000000),
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
NUMBERS_PER_CHUNK = 1 << 22  # numbers that are looked at together

NonNegative = Annotated[int, Field(ge=0)]


@with_config(ConfigDict(strict=True))
class TensorEntry(TypedDict):
    """A tensor's place in its file; offsets in bytes, from the header's end."""

    dtype: str
    shape: Annotated[list[NonNegative], Field(max_length=16)]
    data_offsets: Annotated[list[NonNegative], Field(min_length=2, max_length=2)]


HEADER_ADAPTER = TypeAdapter(dict[str, TensorEntry])


@with_config(ConfigDict(strict=True))
class ShardIndex(TypedDict):
    """The shard of each tensor."""

    weight_map: dict[str, str]


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Name → {"dtype", "shape", "data_offsets"} of a safetensors file.

    Raises UserError that names the file where it is not whole or no such file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{path}: is no whole safetensors file: {size} bytes, too short for its header")
        if length > MAX_HEADER_BYTES:
            raise UserError(
                f"{path}: is no safetensors file: a header of {length} bytes; {MAX_HEADER_BYTES} are allowed"
            )
        text = file.read(length)
    entries = parse_json(text, f"{path}: is no safetensors file: its header is not valid JSON")
    if isinstance(entries, dict):
        entries.pop("__metadata__", None)
    entries = validate_as(HEADER_ADAPTER, entries, f"{path}: is no safetensors file: its header")
    _check_offsets(path, entries, size - 8 - length, size)
    return entries


def _check_offsets(path: Path, entries: dict[str, TensorEntry], data_size: int, size: int) -> None:
    """The tensors fill the file's `data_size` bytes of data one after the other, each as large as its shape says."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if entry["dtype"] not in BYTES_PER_NUMBER:
            raise UserError(
                f"{path}: tensor {name} is of dtype {entry['dtype']!r}; known are {', '.join(BYTES_PER_NUMBER)}"
            )
        if first != end or last - first != math.prod(entry["shape"]) * BYTES_PER_NUMBER[entry["dtype"]]:
            raise UserError(
                f"{path}: tensor {name} of shape {entry['shape']} and dtype {entry['dtype']} cannot lie at bytes "
                f"{first} to {last}; the one before it ends at {end}"
            )
        end = last
    if data_size < end:
        raise UserError(f"{path}: is cut off: {size} of {size - data_size + end} bytes; fetch it again")
    if data_size > end:
        raise UserError(f"{path}: has {data_size - end} bytes after its last tensor; fetch it again")


def check_finite_safetensors(path: Path, name_filter: Callable[[str], bool] = lambda name: True) -> None:
    """Read a safetensors file's tensors once, mapped and not loaded.

    Raises UserError that names file and tensor where one whose name is `name_filter` holds NaN or infinite numbers.
    """
    entries = read_header(path)
    if not any(math.prod(entry["shape"]) for entry in entries.values()):
        return
    start = path.stat().st_size - max(entry["data_offsets"][1] for entry in entries.values())
    content = np.memmap(path, np.uint8, mode="r", offset=start)
    for name, entry in entries.items():
        if entry["dtype"] in NONFINITE_BITS and name_filter(name):
            first, last = entry["data_offsets"]
            integer_type, bits = NONFINITE_BITS[entry["dtype"]]
            if num_nonfinite := _count_nonfinite(content[first:last].view(integer_type), bits):
                raise UserError(format_nonfinite(path, name, num_nonfinite, math.prod(entry["shape"])))


def _count_nonfinite(numbers: np.ndarray, bits: int) -> int:
    """How many of the numbers, seen as integers, have all of `bits` set."""
    mask = numbers.dtype.type(bits)
    chunks = (numbers[i : i + NUMBERS_PER_CHUNK] & mask for i in range(0, len(numbers), NUMBERS_PER_CHUNK))
    return sum(int((chunk == mask).sum()) for chunk in chunks if chunk.max() == mask)


def format_nonfinite(path: Path, name: str, num_nonfinite: int, total: int) -> str:
    """The message for a tensor with numbers that are none."""
    return (
        f"{path}: tensor {name} holds NaN or infinite numbers ({num_nonfinite} of {total}); fetch the file again, "
        "or another"
    )


def check_weight_files(folder: Path, allow_pickle: bool, stem: str) -> list[Path]:
    """The weight files that stock loading may take for a model's folder (unet, vae, a text encoder), headers checked.

    `stem` is what its library calls them: "diffusion_pytorch_model" (diffusers) or "model" (transformers). A
    .safetensors file of another name is no reason to think that one is taken, since the loaders would then take the
    pickle beside it. Raises UserError naming file and fault, and for pickles unless `allow_pickle`.
    """
    single_file, index_file = folder / f"{stem}{SAFETENSORS_SUFFIX}", folder / f"{stem}{INDEX_SUFFIX}"
    pickle_files = sorted(path for path in folder.glob("*") if path.suffix in PICKLE_SUFFIXES)
    if not single_file.is_file() and not index_file.is_file():
        if not pickle_files:
            others = ", ".join(sorted(path.name for path in folder.glob(f"*{SAFETENSORS_SUFFIX}")))
            hint = f"; {others} there is not loaded" if others else ""
            raise UserError(f"{folder}: holds no weights; {single_file.name} is expected there{hint}")
        if not allow_pickle:
            refuse_pickle(pickle_files[0])
        return pickle_files
    shards = _check_indexed_shards(index_file) if index_file.is_file() else []
    files = ([single_file] if single_file.is_file() else []) + shards
    for path in files:
        read_header(path)
    return files


def refuse_pickle(path: Path) -> None:
    """Raises UserError that says what a pickle may do, and what to do instead."""
    raise UserError(
        f"{path}: is a pickle, and loading one can run any code that was put into it; take the .safetensors version, "
        "or set teacher.allow_pickle: true where you trust its maker"
    )


def _check_indexed_shards(index_file: Path) -> list[Path]:
    """The shards that an index names; each must be a safetensors file beside it, and hold what the index says."""
    shard_of_tensor = validate_as(
        TypeAdapter(ShardIndex), read_json(index_file), f"{index_file}: is no index of weights"
    )["weight_map"]
    shards = []
    for name in sorted(set(shard_of_tensor.values())):
        shard = index_file.with_name(name) if Path(name).name == name else None
        if shard is None or shard.suffix != SAFETENSORS_SUFFIX:
            raise UserError(
                f"{index_file}: names {name!r} as a shard; a {SAFETENSORS_SUFFIX} file beside it is expected"
            )
        if not shard.is_file():
            raise UserError(f"{shard}: is missing; {index_file.name} says that weights are in it")
        entries = read_header(shard)
        missing = [key for key, shard_name in shard_of_tensor.items() if shard_name == name and key not in entries]
        if missing:
            raise UserError(
                f"{shard}: has no {missing[0]} ({len(missing)} missing in all), which {index_file.name} says it has"
            )
        shards.append(shard)
    return shards
