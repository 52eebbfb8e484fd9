"""Captioned scenes: one or two flat shapes on a plain background, drawn from a seed.

A *scene* is what is in the picture (objects, relation, background), apart from how it looks: the same
scene can be drawn at many positions and radii. Everything follows from a `Vocabulary` and a seed, so a
manifest needs to hold nothing but the seed. Absent: rotation, overlap, texture, shading.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prunella.errors import UserError
from prunella.storage.files import read_yaml

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Vocabulary:
    """The words of scenes and their looks, as read from `data/scenes.yaml`."""

    picture: int
    shapes: tuple[str, ...]
    colours: dict[str, Colour]
    backgrounds: dict[str, Colour]
    sizes: dict[str, tuple[float, float]]
    relations: tuple[str, ...]
    two_objects: float
    unseen: float
    phrasings: tuple[str, ...]

    @cached_property
    def combinations(self) -> dict[bool, list[tuple[str, str, str]]]:
        """(size, colour, shape) triples: under True those never trained on, a fixed share chosen by hash."""
        triples = list(product(self.sizes, self.colours, self.shapes))
        triples.sort(key=lambda words: hashlib.sha256(" ".join(words).encode()).hexdigest())
        cut = round(len(triples) * self.unseen)
        return {True: sorted(triples[:cut]), False: sorted(triples[cut:])}


def read_vocabulary(path: Path | str) -> Vocabulary:
    """Read a vocabulary file. Raises UserError when it is missing or a key is unknown, absent or ill-formed."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such vocabulary of scenes; the shipped one is data/scenes.yaml")
    words = read_yaml(path)
    try:
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in words.items()
        }
        vocabulary = Vocabulary(**known)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a vocabulary of scenes: {error}") from None
    strange = [shape for shape in vocabulary.shapes if shape not in DISTANCES]
    if strange:
        raise UserError(f"{path}: no shape is called {strange[0]!r}; there are {', '.join(DISTANCES)}")
    return vocabulary


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{'an' if self.size[0] in 'aeiou' else 'a'} {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `relation` says where things[0] is, seen from things[1]; None for one thing."""

    things: tuple[Thing, ...]
    relation: str | None
    background: str

    def caption(self, phrasing: str) -> str:
        between = f" {self.relation} " if self.relation else ""
        return phrasing.format(objects=between.join(map(str, self.things)), background=self.background)


def draw_scene(vocabulary: Vocabulary, rng: np.random.Generator, unseen: bool = False) -> Scene:
    """A random scene. With `unseen`, its first thing (in the drawing of lots) is a never-trained combination."""
    seen = vocabulary.combinations[False]
    first = seen if not unseen else vocabulary.combinations[True]
    things = [Thing(*first[rng.integers(len(first))])]
    if rng.random() < vocabulary.two_objects:
        while len(things) < 2:
            other = Thing(*seen[rng.integers(len(seen))])
            if (other.colour, other.shape) != (things[0].colour, things[0].shape):
                things.append(other)
        if rng.random() < 0.5:
            things.reverse()
    relation = vocabulary.relations[rng.integers(len(vocabulary.relations))] if len(things) == 2 else None
    backgrounds = list(vocabulary.backgrounds)
    return Scene(tuple(things), relation, backgrounds[rng.integers(len(backgrounds))])


def captioned(vocabulary: Vocabulary, seed: int, index: int, unseen: bool = False) -> tuple[str, np.ndarray]:
    """Caption and picture (HWC uint8 RGB) number `index` of the endless series that `seed` names."""
    scene, text, rng = _said(vocabulary, seed, index, unseen)
    return text, render(scene, vocabulary, rng)


def caption(vocabulary: Vocabulary, seed: int, index: int) -> str:
    """The caption that `captioned` gives, without its picture."""
    return _said(vocabulary, seed, index, unseen=False)[1]


def _said(vocabulary: Vocabulary, seed: int, index: int, unseen: bool) -> tuple[Scene, str, np.random.Generator]:
    rng = np.random.default_rng([seed, index, unseen])
    scene = draw_scene(vocabulary, rng, unseen)
    phrasing = vocabulary.phrasings[rng.integers(len(vocabulary.phrasings))]
    return scene, scene.caption(phrasing), rng


def render(scene: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """The scene as HWC uint8 RGB: positions, radii and colours jittered, edges anti-aliased."""
    side = vocabulary.picture
    radii = [rng.uniform(*vocabulary.sizes[thing.size]) for thing in scene.things]
    canvas = np.broadcast_to(_jittered(vocabulary.backgrounds[scene.background], rng), (side, side, 3))
    for thing, radius, (x, y) in zip(scene.things, radii, _places(scene.relation, radii, side, rng), strict=True):
        cover = coverage(thing.shape, x, y, radius, side)[..., None]
        canvas = canvas * (1 - cover) + _jittered(vocabulary.colours[thing.colour], rng) * cover
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _jittered(colour: Colour, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.asarray(colour) + rng.uniform(-8, 8, 3), 0, 255)


def _places(relation: str | None, radii: list[float], side: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Centres (x, y), whole inside the picture; two things are apart by a gap along their relation's axis."""
    margin, gap = 1.0, 3.0
    free = [(margin + r, side - margin - r) for r in radii]
    if relation is None:
        return [(rng.uniform(*free[0]), rng.uniform(*free[0]))]
    slack = side - 2 * margin - 2 * sum(radii) - gap
    before, between = np.sort(rng.uniform(0, slack, 2))
    near, far = (0, 1) if relation in ("above", "left of") else (1, 0)
    along = {near: margin + before + radii[near]}
    along[far] = along[near] + radii[near] + gap + (between - before) + radii[far]
    # Across the relation's axis the two stay close to each other: "above" shall not also be "left of".
    middle = rng.uniform(max(low for low, _ in free), min(high for _, high in free))
    across = [float(np.clip(middle + rng.uniform(-4, 4), *limits)) for limits in free]
    vertical = relation in ("above", "below")
    return [(across[i], along[i]) if vertical else (along[i], across[i]) for i in (0, 1)]


def coverage(shape: str, x: float, y: float, radius: float, side: int) -> np.ndarray:
    """Share of each pixel (HW, 0..1) that `shape` around (x, y) covers."""
    grid = np.arange(side, dtype=np.float32) + 0.5
    return np.clip(0.5 - DISTANCES[shape](grid[None, :] - x, grid[:, None] - y, radius), 0.0, 1.0)


# Signed distances in pixels (negative inside) to shapes inscribed in a circle; y points down.
Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _disc(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - 0.9 * r


def _ring(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74 * r) - 0.22 * r


def _polygon(corners: ArrayLike) -> Distance:
    """The signed distance to a simple polygon given in units of the radius."""
    ends = np.asarray(corners, dtype=np.float32)

    def distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
        nearest: np.ndarray | float = np.inf
        inside: np.ndarray | bool = False
        for (ax, ay), (bx, by) in zip(ends * r, np.roll(ends, -1, axis=0) * r, strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
            if ey:
                inside = inside ^ (((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey))
        return np.sqrt(nearest) * np.where(inside, -1, 1)

    return distance


def _star_corners(points: int, waist: float) -> np.ndarray:
    turns = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, waist, 1.0)
    return np.stack([radii * np.sin(turns), -radii * np.cos(turns)], axis=1)


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _square(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return _box(x, y, 0.76 * r, 0.76 * r)


def _cross(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.minimum(_box(x, y, 0.95 * r, 0.28 * r), _box(x, y, 0.28 * r, 0.95 * r))


def _heart_corners() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.5


DISTANCES: dict[str, Distance] = {
    "disc": _disc,
    "ring": _ring,
    "square": _square,
    "triangle": _polygon([(0, -1), (0.95, 0.75), (-0.95, 0.75)]),
    "heart": _polygon(_heart_corners()),
    "star": _polygon(_star_corners(5, 0.45)),
    "cross": _cross,
    "arrow": _polygon([(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.1), (-0.8, -0.1)]),
}
