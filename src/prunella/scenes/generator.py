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

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Vocabulary:
    """The words of scenes and their looks, as read from `data/scenes.yaml`."""

    picture: int
    shapes: tuple[str, ...]
    colours: dict[str, Color]
    backgrounds: dict[str, Color]
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
    content = read_yaml(path)
    try:
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        vocabulary = Vocabulary(**fields)
    except (TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a vocabulary of scenes: {error}") from None
    unknown_shapes = [shape for shape in vocabulary.shapes if shape not in SHAPE_DISTANCES]
    if unknown_shapes:
        raise UserError(f"{path}: no shape is called {unknown_shapes[0]!r}; there are {', '.join(SHAPE_DISTANCES)}")
    return vocabulary


@dataclass(frozen=True)
class SceneObject:
    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"{'an' if self.size[0] in 'aeiou' else 'a'} {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """The content of a picture. `relation` says where things[0] is, seen from things[1]; None for one thing."""

    objects: tuple[SceneObject, ...]
    relation: str | None
    background: str

    def format_caption(self, phrasing: str) -> str:
        connector = f" {self.relation} " if self.relation else ""
        return phrasing.format(objects=connector.join(map(str, self.objects)), background=self.background)


def make_scene(vocabulary: Vocabulary, rng: np.random.Generator, unseen: bool = False) -> Scene:
    """A random scene. With `unseen`, its first thing (in the drawing of lots) is a never-trained combination."""
    trained = vocabulary.combinations[False]
    first_choices = trained if not unseen else vocabulary.combinations[True]
    objects = [SceneObject(*first_choices[rng.integers(len(first_choices))])]
    if rng.random() < vocabulary.two_objects:
        while len(objects) < 2:
            candidate = SceneObject(*trained[rng.integers(len(trained))])
            if (candidate.colour, candidate.shape) != (objects[0].colour, objects[0].shape):
                objects.append(candidate)
        if rng.random() < 0.5:
            objects.reverse()
    relation = vocabulary.relations[rng.integers(len(vocabulary.relations))] if len(objects) == 2 else None
    backgrounds = list(vocabulary.backgrounds)
    return Scene(tuple(objects), relation, backgrounds[rng.integers(len(backgrounds))])


def render_sample(vocabulary: Vocabulary, seed: int, index: int, unseen: bool = False) -> tuple[str, np.ndarray]:
    """Caption and picture (HWC uint8 RGB) number `index` of the endless series that `seed` names."""
    scene, caption_text, rng = _make_captioned_scene(vocabulary, seed, index, unseen)
    return caption_text, render_scene(scene, vocabulary, rng)


def make_caption(vocabulary: Vocabulary, seed: int, index: int) -> str:
    """The caption that `render_sample` gives, without its picture."""
    return _make_captioned_scene(vocabulary, seed, index, unseen=False)[1]


def _make_captioned_scene(
    vocabulary: Vocabulary, seed: int, index: int, unseen: bool
) -> tuple[Scene, str, np.random.Generator]:
    rng = np.random.default_rng([seed, index, unseen])
    scene = make_scene(vocabulary, rng, unseen)
    phrasing = vocabulary.phrasings[rng.integers(len(vocabulary.phrasings))]
    return scene, scene.format_caption(phrasing), rng


def render_scene(scene: Scene, vocabulary: Vocabulary, rng: np.random.Generator) -> np.ndarray:
    """The scene as HWC uint8 RGB: positions, radii and colours jittered, edges anti-aliased."""
    image_size = vocabulary.picture
    radii = [rng.uniform(*vocabulary.sizes[scene_object.size]) for scene_object in scene.objects]
    canvas = np.broadcast_to(_jitter_color(vocabulary.backgrounds[scene.background], rng), (image_size, image_size, 3))
    for scene_object, object_radius, (x, y) in zip(
        scene.objects, radii, _choose_centers(scene.relation, radii, image_size, rng), strict=True
    ):
        cover = render_coverage(scene_object.shape, x, y, object_radius, image_size)[..., None]
        canvas = canvas * (1 - cover) + _jitter_color(vocabulary.colours[scene_object.colour], rng) * cover
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _jitter_color(color: Color, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.asarray(color) + rng.uniform(-8, 8, 3), 0, 255)


def _choose_centers(
    relation: str | None, radii: list[float], image_size: int, rng: np.random.Generator
) -> list[tuple[float, float]]:
    """Centres (x, y), whole inside the picture; two things are apart by a gap along their relation's axis."""
    margin, gap = 1.0, 3.0
    free = [(margin + radius, image_size - margin - radius) for radius in radii]
    if relation is None:
        return [(rng.uniform(*free[0]), rng.uniform(*free[0]))]
    slack = image_size - 2 * margin - 2 * sum(radii) - gap
    space_before, space_between = np.sort(rng.uniform(0, slack, 2))
    first, second = (0, 1) if relation in ("above", "left of") else (1, 0)
    along_axis = {first: margin + space_before + radii[first]}
    along_axis[second] = along_axis[first] + radii[first] + gap + (space_between - space_before) + radii[second]
    # Across the relation's axis the two stay close to each other: "above" shall not also be "left of".
    center = rng.uniform(max(low for low, _ in free), min(high for _, high in free))
    across_axis = [float(np.clip(center + rng.uniform(-4, 4), *limits)) for limits in free]
    vertical = relation in ("above", "below")
    return [(across_axis[i], along_axis[i]) if vertical else (along_axis[i], across_axis[i]) for i in (0, 1)]


def render_coverage(shape: str, x: float, y: float, radius: float, image_size: int) -> np.ndarray:
    """Share of each pixel (HW, 0..1) that `shape` around (x, y) covers."""
    grid = np.arange(image_size, dtype=np.float32) + 0.5
    return np.clip(0.5 - SHAPE_DISTANCES[shape](grid[None, :] - x, grid[:, None] - y, radius), 0.0, 1.0)


# Signed distances in pixels (negative inside) to shapes inscribed in a circle; y points down.
Distance = Callable[[np.ndarray, np.ndarray, float], np.ndarray]


def _disc_distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.hypot(x, y) - 0.9 * r


def _ring_distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74 * r) - 0.22 * r


def _make_polygon_distance(corners: ArrayLike) -> Distance:
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


def _make_star_corners(points: int, waist: float) -> np.ndarray:
    turns = np.arange(2 * points) * np.pi / points
    radii = np.where(np.arange(2 * points) % 2, waist, 1.0)
    return np.stack([radii * np.sin(turns), -radii * np.cos(turns)], axis=1)


def _box_distance(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    dx, dy = np.abs(x) - half_width, np.abs(y) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _square_distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return _box_distance(x, y, 0.76 * r, 0.76 * r)


def _cross_distance(x: np.ndarray, y: np.ndarray, r: float) -> np.ndarray:
    return np.minimum(_box_distance(x, y, 0.95 * r, 0.28 * r), _box_distance(x, y, 0.28 * r, 0.95 * r))


def _make_heart_corners() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.5


SHAPE_DISTANCES: dict[str, Distance] = {
    "disc": _disc_distance,
    "ring": _ring_distance,
    "square": _square_distance,
    "triangle": _make_polygon_distance([(0, -1), (0.95, 0.75), (-0.95, 0.75)]),
    "heart": _make_polygon_distance(_make_heart_corners()),
    "star": _make_polygon_distance(_make_star_corners(5, 0.45)),
    "cross": _cross_distance,
    "arrow": _make_polygon_distance(
        [(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.1), (-0.8, -0.1)]
    ),
}
