"""The analytic judge of scenes: sees pixels and a caption, and says which of the caption's claims are true.

It measures the picture first (background, things with colour, shape, radius, place), knowing nothing of the
caption, then holds the caption's claims against what it measured. Nothing in it is learnt.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from prunella.scenes.generator import Colour, Scene, Thing, Vocabulary, coverage

CLAIMS = ("background", "count", "colour", "shape", "size", "relation")
FOREGROUND = 0.15  # of the largest possible colour difference; below it a pixel is background
SMALLEST = 20  # pixels; a smaller speck is no thing
FARTHEST = 90.0  # a colour farther than this (sRGB, Euclidean) from every named one has no name
TOO_LOOSE = 0.70  # intersection over union with the best template below which a thing has no shape

Words = tuple[str, ...]
Box = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Seen:
    """One thing as measured: names or None where nothing fits, radius in pixels, centre (x, y)."""

    colour: str | None
    shape: str | None
    radius: float
    x: float
    y: float

    def is_(self, size: str, vocabulary: Vocabulary) -> bool:
        middles = {name: sum(limits) / 2 for name, limits in vocabulary.sizes.items()}
        return min(middles, key=lambda name: abs(middles[name] - self.radius)) == size


def judge(picture: np.ndarray, caption: str, vocabulary: Vocabulary) -> dict[str, bool] | None:
    """Each claim of `caption` that holds in `picture` (HWC uint8 RGB); None where it is no scene's caption.

    The things' claims (colour, shape, size, relation) are judged with the things matched to the caption as
    favourably as possible; where the number of things is wrong they are all false. A caption of one thing makes
    no claim of a relation.
    """
    claimed = parse(caption, vocabulary)
    if claimed is None:
        return None
    background, seen = look(picture, vocabulary)
    verdict = {"background": background == claimed.background, "count": len(seen) == len(claimed.things)}
    orders = [seen, seen[::-1]] if len(seen) == 2 else [seen]
    rest = (
        [_hold(claimed, order, vocabulary) for order in orders]
        if verdict["count"]
        else [_hold(claimed, [], vocabulary)]
    )
    return verdict | max(rest, key=lambda claims: sum(claims.values()))


def parse(caption: str, vocabulary: Vocabulary) -> Scene | None:
    """The scene that a caption describes, or None."""
    things, relation, ground = _patterns(vocabulary)
    found = things.findall(caption.lower())
    background = ground.search(caption.lower())
    if not background or len(found) not in (1, 2):
        return None
    between = relation.search(caption.lower()) if len(found) == 2 else None
    if len(found) == 2 and not between:
        return None
    return Scene(tuple(Thing(*words) for words in found), between and between[1], background[1])


@cache
def _patterns_of(
    sizes: Words, colours: Words, shapes: Words, relations: Words, backgrounds: Words
) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    def one(words: Words) -> str:
        return "(" + "|".join(map(re.escape, words)) + ")"

    things = re.compile(rf"\b{one(sizes)} {one(colours)} {one(shapes)}\b")
    return things, re.compile(rf" {one(relations)} an? "), re.compile(rf"\b{one(backgrounds)} background\b")


def _patterns(vocabulary: Vocabulary) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    named = vocabulary.sizes, vocabulary.colours, vocabulary.shapes, vocabulary.relations, vocabulary.backgrounds
    return _patterns_of(*(tuple(words) for words in named))


def _hold(claimed: Scene, seen: list[Seen], vocabulary: Vocabulary) -> dict[str, bool]:
    pairs = list(zip(claimed.things, seen, strict=False))
    whole = bool(pairs)
    claims = {
        "colour": whole and all(thing.colour == it.colour for thing, it in pairs),
        "shape": whole and all(thing.shape == it.shape for thing, it in pairs),
        "size": whole and all(it.is_(thing.size, vocabulary) for thing, it in pairs),
    }
    if claimed.relation:
        claims["relation"] = whole and _stands(claimed.relation, *seen)
    return claims


def _stands(relation: str, first: Seen, second: Seen) -> bool:
    dx, dy = second.x - first.x, second.y - first.y
    along, across = {"above": (dy, dx), "below": (-dy, dx), "left of": (dx, dy), "right of": (-dx, dy)}[relation]
    return along > abs(across)


def look(picture: np.ndarray, vocabulary: Vocabulary) -> tuple[str | None, list[Seen]]:
    """Name of the background and the things in a picture (HWC uint8 RGB), largest first."""
    pixels = picture.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    apart = np.sqrt(((pixels - ground) ** 2).sum(-1))
    labels, found = ndimage.label(apart > FOREGROUND * 255)
    areas = np.bincount(labels.ravel(), minlength=found + 1)
    boxes = [(slice(0, 0),) * 2, *ndimage.find_objects(labels)]
    chosen = [i for i in np.argsort(-areas) if i and areas[i] >= SMALLEST]
    seen = [_measure(pixels, ground, labels, i, boxes[i], vocabulary) for i in chosen]
    return _name(ground, vocabulary.backgrounds), seen


def _measure(
    pixels: np.ndarray, ground: np.ndarray, labels: np.ndarray, label: int, box: Box, vocabulary: Vocabulary
) -> Seen:
    """The thing of `label`, looked at in a square window a little larger than its bounding box."""
    top, left, side = _window(box, labels.shape[0])
    window = np.s_[top : top + side, left : left + side]
    pixels, mask = pixels[window], labels[window] == label
    core = ndimage.binary_erosion(mask)
    colour = np.median(pixels[core if core.sum() >= 5 else mask], axis=0)
    axis = colour - ground
    # How much of each pixel the thing covers, by its place between the background's colour and its own.
    cover = np.clip(((pixels - ground) @ axis) / max(float(axis @ axis), 1e-6), 0, 1)
    cover *= ndimage.binary_dilation(mask, iterations=2)
    area = float(cover.sum())
    grid = np.arange(len(mask)) + 0.5
    x, y = float((cover.sum(0) @ grid) / area), float((cover.sum(1) @ grid) / area)
    fits = {shape: _fit(cover, area, x, y, shape) for shape in vocabulary.shapes}
    shape = max(fits, key=lambda name: fits[name][0])
    overlap, radius = fits[shape]
    named = _name(colour, vocabulary.colours)
    return Seen(named, shape if overlap >= TOO_LOOSE else None, radius, left + x, top + y)


def _window(box: Box, side: int, margin: int = 4) -> tuple[int, int, int]:
    """Top, left and side of the square around `box`, inside a picture of `side` pixels."""
    rows, columns = box
    wanted = min(side, max(rows.stop - rows.start, columns.stop - columns.start) + 2 * margin)
    top, left = (min(max(0, part.start - margin), side - wanted) for part in box)
    return top, left, wanted


def _fit(cover: np.ndarray, area: float, x: float, y: float, shape: str) -> tuple[float, float]:
    """Intersection over union with `shape` of the same area and centroid, and its radius."""
    unit_area, middle = _moments(shape)
    radius = (area / unit_area) ** 0.5
    template = coverage(shape, x, y - middle * radius, radius, len(cover))
    return float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum()), radius


@cache
def _moments(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and how far below the circle's centre its centroid lies."""
    side, radius = 256, 100.0
    cover = coverage(shape, side / 2, side / 2, radius, side)
    down = cover.sum(1) @ (np.arange(side) + 0.5 - side / 2) / cover.sum()
    return float(cover.sum() / radius**2), float(down / radius)


def _name(colour: np.ndarray, names: dict[str, Colour]) -> str | None:
    far = {name: float(np.linalg.norm(colour - np.asarray(value))) for name, value in names.items()}
    nearest = min(far, key=lambda name: far[name])
    return nearest if far[nearest] <= FARTHEST else None
