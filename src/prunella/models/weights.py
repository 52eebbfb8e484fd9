"""Weight files on disk, looked at without loading them: whole or cut off, complete or not, pickle or not.

The format is safetensors': eight bytes of the header's length, the header as JSON (name → dtype, shape, offsets), data.
"""

import json
from pathlib import Path

from prunella.errors import UserError

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
INDEX = ".safetensors.index.json"


def header(path: Path) -> dict[str, dict]:
    """Name → {"dtype", "shape", "data_offsets"}. Raises UserError that names the file where it is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(f"{path}: is no whole safetensors file: {size} bytes, too short for its header")
        try:
            entries = json.loads(file.read(length))
        except ValueError:
            raise UserError(f"{path}: is no safetensors file: its header is not valid JSON") from None
    entries.pop("__metadata__", None)
    needed = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if size < needed:
        raise UserError(f"{path}: is cut off: {size} of {needed} bytes; fetch it again")
    return entries


def check_part(folder: Path, allow_pickle: bool) -> None:
    """A model's folder (unet, vae, a text encoder) must hold whole weights. Raises UserError naming file and fault."""
    plain = sorted(folder.glob("*.safetensors"))
    pickled = sorted(path for path in folder.glob("*") if path.suffix in PICKLES)
    if not plain and not list(folder.glob("*" + INDEX)):
        if not pickled:
            raise UserError(f"{folder}: holds no weights; a .safetensors file is expected there")
        if not allow_pickle:
            refuse_pickle(pickled[0])
    for index in folder.glob("*" + INDEX):
        _check_shards(index)
    for path in plain:
        header(path)


def refuse_pickle(path: Path) -> None:
    raise UserError(
        f"{path}: is a pickle, and loading one can run any code that was put into it; take the .safetensors version, "
        "or set teacher.allow_pickle: true where you trust its maker"
    )


def _check_shards(index: Path) -> None:
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f'{index}: is no index of weights: a JSON object with a "weight_map" is expected') from None
    for name in sorted(set(places.values())):
        shard = index.with_name(name)
        if not shard.is_file():
            raise UserError(f"{shard}: is missing; {index.name} says that weights are in it")
        there = header(shard)
        lost = [key for key, place in places.items() if place == name and key not in there]
        if lost:
            raise UserError(f"{shard}: has no {lost[0]} ({len(lost)} missing in all), which {index.name} says it has")
