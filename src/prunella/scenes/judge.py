"""The analytic judge of scenes: sees pixels and a caption, and says which of the caption's claims are true.

It measures the picture first (background, things with colour, shape, radius, place), knowing nothing of the
caption, then holds the caption's claims against what it measured. Nothing in it is learnt.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import ndimage

from prunella.scenes.generator import Color, Scene, SceneObject, Vocabulary, render_coverage

CLAIMS = ("background", "count", "colour", "shape", "size", "relation")
FOREGROUND_THRESHOLD = 0.15  # of the largest possible colour difference; below it a pixel is background
MIN_OBJECT_PIXELS = 20  # pixels; a smaller speck is no thing
MAX_COLOR_DISTANCE = 90.0  # a colour farther than this (sRGB, Euclidean) from every named one has no name
MIN_SHAPE_OVERLAP = 0.70  # intersection over union with the best template below which a thing has no shape

Words = tuple[str, ...]
Box = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class DetectedObject:
    """One thing as measured: names or None where nothing fits, radius in pixels, centre (x, y)."""

    colour: str | None
    shape: str | None
    radius: float
    x: float
    y: float

    def has_size(self, size: str, vocabulary: Vocabulary) -> bool:
        mid_radii = {name: sum(limits) / 2 for name, limits in vocabulary.sizes.items()}
        return min(mid_radii, key=lambda name: abs(mid_radii[name] - self.radius)) == size


def judge_image(image: np.ndarray, caption: str, vocabulary: Vocabulary) -> dict[str, bool] | None:
    """Each claim of `caption` that holds in `image` (HWC uint8 RGB); None where it is no scene's caption.

    The things' claims (colour, shape, size, relation) are judged with the things matched to the caption as
    favourably as possible; where the number of things is wrong they are all false. A caption of one thing makes
    no claim of a relation.
    """
    claimed_scene = parse_scene_caption(caption, vocabulary)
    if claimed_scene is None:
        return None
    background, detected = detect_objects(image, vocabulary)
    verdict = {
        "background": background == claimed_scene.background,
        "count": len(detected) == len(claimed_scene.objects),
    }
    orders = [detected, detected[::-1]] if len(detected) == 2 else [detected]
    object_claims = (
        [_check_claims(claimed_scene, order, vocabulary) for order in orders]
        if verdict["count"]
        else [_check_claims(claimed_scene, [], vocabulary)]
    )
    return verdict | max(object_claims, key=lambda claims: sum(claims.values()))


def parse_scene_caption(caption: str, vocabulary: Vocabulary) -> Scene | None:
    """The scene that a caption describes, or None."""
    object_pattern, relation_pattern, background_pattern = _vocabulary_patterns(vocabulary)
    objects = object_pattern.findall(caption.lower())
    background = background_pattern.search(caption.lower())
    if not background or len(objects) not in (1, 2):
        return None
    relation_match = relation_pattern.search(caption.lower()) if len(objects) == 2 else None
    if len(objects) == 2 and not relation_match:
        return None
    return Scene(tuple(SceneObject(*words) for words in objects), relation_match and relation_match[1], background[1])


@cache
def _compile_patterns(
    sizes: Words, colors: Words, shapes: Words, relations: Words, backgrounds: Words
) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    def alternatives(words: Words) -> str:
        return "(" + "|".join(map(re.escape, words)) + ")"

    object_pattern = re.compile(rf"\b{alternatives(sizes)} {alternatives(colors)} {alternatives(shapes)}\b")
    return (
        object_pattern,
        re.compile(rf" {alternatives(relations)} an? "),
        re.compile(rf"\b{alternatives(backgrounds)} background\b"),
    )


def _vocabulary_patterns(vocabulary: Vocabulary) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    word_lists = vocabulary.sizes, vocabulary.colours, vocabulary.shapes, vocabulary.relations, vocabulary.backgrounds
    return _compile_patterns(*(tuple(words) for words in word_lists))


def _check_claims(claimed_scene: Scene, detected: list[DetectedObject], vocabulary: Vocabulary) -> dict[str, bool]:
    pairs = list(zip(claimed_scene.objects, detected, strict=False))
    has_pairs = bool(pairs)
    claims = {
        "colour": has_pairs
        and all(scene_object.colour == detected_object.colour for scene_object, detected_object in pairs),
        "shape": has_pairs
        and all(scene_object.shape == detected_object.shape for scene_object, detected_object in pairs),
        "size": has_pairs
        and all(detected_object.has_size(scene_object.size, vocabulary) for scene_object, detected_object in pairs),
    }
    if claimed_scene.relation:
        claims["relation"] = has_pairs and _relation_holds(claimed_scene.relation, *detected)
    return claims


def _relation_holds(relation: str, first: DetectedObject, second: DetectedObject) -> bool:
    dx, dy = second.x - first.x, second.y - first.y
    along, across = {"above": (dy, dx), "below": (-dy, dx), "left of": (dx, dy), "right of": (-dx, dy)}[relation]
    return along > abs(across)


def detect_objects(image: np.ndarray, vocabulary: Vocabulary) -> tuple[str | None, list[DetectedObject]]:
    """Name of the background and the things in a picture (HWC uint8 RGB), largest first."""
    pixels = image.astype(np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    background_color = np.median(border, axis=0)
    color_distance = np.sqrt(((pixels - background_color) ** 2).sum(-1))
    labels, num_labels = ndimage.label(color_distance > FOREGROUND_THRESHOLD * 255)
    areas = np.bincount(labels.ravel(), minlength=num_labels + 1)
    boxes = [(slice(0, 0),) * 2, *ndimage.find_objects(labels)]
    labels_by_area = [i for i in np.argsort(-areas) if i and areas[i] >= MIN_OBJECT_PIXELS]
    detected = [_measure_object(pixels, background_color, labels, i, boxes[i], vocabulary) for i in labels_by_area]
    return _nearest_color_name(background_color, vocabulary.backgrounds), detected


def _measure_object(
    pixels: np.ndarray, background_color: np.ndarray, labels: np.ndarray, label: int, box: Box, vocabulary: Vocabulary
) -> DetectedObject:
    """The thing of `label`, looked at in a square window a little larger than its bounding box."""
    top, left, side = _square_window(box, labels.shape[0])
    window = np.s_[top : top + side, left : left + side]
    pixels, mask = pixels[window], labels[window] == label
    core = ndimage.binary_erosion(mask)
    object_color = np.median(pixels[core if core.sum() >= 5 else mask], axis=0)
    color_axis = object_color - background_color
    # How much of each pixel the thing covers, by its place between the background's colour and its own.
    cover = np.clip(((pixels - background_color) @ color_axis) / max(float(color_axis @ color_axis), 1e-6), 0, 1)
    cover *= ndimage.binary_dilation(mask, iterations=2)
    area = float(cover.sum())
    grid = np.arange(len(mask)) + 0.5
    x, y = float((cover.sum(0) @ grid) / area), float((cover.sum(1) @ grid) / area)
    shape_fits = {shape: _fit_shape(cover, area, x, y, shape) for shape in vocabulary.shapes}
    shape = max(shape_fits, key=lambda name: shape_fits[name][0])
    overlap, radius = shape_fits[shape]
    color_name = _nearest_color_name(object_color, vocabulary.colours)
    return DetectedObject(color_name, shape if overlap >= MIN_SHAPE_OVERLAP else None, radius, left + x, top + y)


def _square_window(box: Box, side: int, margin: int = 4) -> tuple[int, int, int]:
    """Top, left and side of the square around `box`, inside a picture of `side` pixels."""
    rows, columns = box
    window_side = min(side, max(rows.stop - rows.start, columns.stop - columns.start) + 2 * margin)
    top, left = (min(max(0, extent.start - margin), side - window_side) for extent in box)
    return top, left, window_side


def _fit_shape(cover: np.ndarray, area: float, x: float, y: float, shape: str) -> tuple[float, float]:
    """Intersection over union with `shape` of the same area and centroid, and its radius."""
    unit_area, centroid_offset = _shape_moments(shape)
    radius = (area / unit_area) ** 0.5
    template = render_coverage(shape, x, y - centroid_offset * radius, radius, len(cover))
    return float(np.minimum(cover, template).sum() / np.maximum(cover, template).sum()), radius


@cache
def _shape_moments(shape: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and how far below the circle's centre its centroid lies."""
    side, radius = 256, 100.0
    cover = render_coverage(shape, side / 2, side / 2, radius, side)
    centroid_offset = cover.sum(1) @ (np.arange(side) + 0.5 - side / 2) / cover.sum()
    return float(cover.sum() / radius**2), float(centroid_offset / radius)


def _nearest_color_name(color: np.ndarray, named_colors: dict[str, Color]) -> str | None:
    distances = {name: float(np.linalg.norm(color - np.asarray(value))) for name, value in named_colors.items()}
    nearest = min(distances, key=lambda name: distances[name])
    return nearest if distances[nearest] <= MAX_COLOR_DISTANCE else None
