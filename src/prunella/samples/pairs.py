"""What a pair is: a picture and its caption, known by a line in a manifest; the pixels stay where they are.

A manifest is a folder with `pairs.jsonl`, one pair a line, and `source.json`, which says how to find the pixels:
{"source": "scenes", "path": …, "sha256": …, "seed": …} or {"source": "folder", "path": …}.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from prunella.samples import folder, scenes


@dataclass(frozen=True)
class Pair:
    """`key` finds the pixels (a scene's number, a file name); `sum` changes when they do."""

    key: str
    text: str
    width: int
    height: int
    sum: str


def write_manifest(out: Path, source: dict, pairs: Iterable[Pair]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "source.json").write_text(json.dumps(source, indent=1) + "\n")
    with (out / "pairs.jsonl").open("w") as file:
        file.writelines(json.dumps(asdict(pair), ensure_ascii=False) + "\n" for pair in pairs)


def read_manifest(path: Path) -> tuple[dict, list[Pair]]:
    source = json.loads((path / "source.json").read_text())
    return source, [Pair(**json.loads(line)) for line in (path / "pairs.jsonl").read_text().splitlines()]


def reader(source: dict) -> Callable[[str], Image.Image]:
    """A function from a pair's key to its picture (RGB)."""
    if source["source"] == "folder":
        return lambda key: folder.read_picture(Path(source["path"]) / key)
    vocabulary = scenes.read_vocabulary(source["path"])
    return lambda key: Image.fromarray(scenes.captioned(vocabulary, source["seed"], int(key))[1])


def squared(picture: Image.Image, side: int) -> np.ndarray:
    """The picture's middle square, resized to side × side, as HWC uint8."""
    width, height = picture.size
    edge = min(width, height)
    box = ((width - edge) // 2, (height - edge) // 2, (width + edge) // 2, (height + edge) // 2)
    if (edge, edge) == (side, side):
        return np.asarray(picture.crop(box))
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, box=box))


def size_conditioning(picture: Image.Image, side: int) -> list[int]:
    """SDXL's six numbers of a picture that `squared` made: original height and width, crop top and left, target both.

    The crop is measured in the resized picture (arXiv 2307.01952, section 2.2; as in diffusers' SDXL training script).
    """
    width, height = picture.size
    edge = min(width, height)
    top, left = (round((length - edge) // 2 * side / edge) for length in (height, width))
    return [height, width, top, left, side, side]


def chunks(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))
