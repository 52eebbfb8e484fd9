"""Aspect buckets: a few sizes of about the same area, each picture cut to the one nearest to its own proportions."""

import numpy as np

from prunella.errors import UserError

# Width and height, as SSD-1B was trained in (arXiv 2401.02677, section 3; https://huggingface.co/segmind/SSD-1B).
SSD_1B = (
    (1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216), (1344, 768), (768, 1344),
    (1536, 640), (640, 1536),
)  # fmt: skip
MAX_ASPECT = 2.4  # proportions of a computed size, those of SSD-1B's longest
NO_BUCKET = -1


def bucket_sizes(kind: str, resolution: int, multiple: int) -> list[tuple[int, int]]:
    """The sizes (width, height) of `kind`, the square first; sides are multiples of `multiple`.

    square: one. ssd-1b: the nine, scaled to `resolution`. computed: for every width the greatest height that keeps the
    area within resolution². Raises UserError where `resolution` is no multiple, or the nine would fall together.
    """
    if resolution % multiple:
        raise UserError(f"encode.resolution: {resolution} is no multiple of {multiple}, which this teacher needs")
    square = (resolution, resolution)
    if kind == "square":
        return [square]
    if kind == "ssd-1b":
        sides = [[_round_to_multiple(side * resolution / 1024, multiple) for side in size] for size in SSD_1B]
        scaled = [(width, height) for width, height in sides]
        if len(set(scaled)) < len(SSD_1B):
            raise UserError(
                f"encode.buckets: at {resolution} pixels, in steps of {multiple}, the nine sizes of ssd-1b are only "
                f"{len(set(scaled))}; computed gives those that there are"
            )
        return scaled
    widths = range(multiple, int(resolution * MAX_ASPECT**0.5) + multiple, multiple)
    computed = [(width, resolution**2 // width // multiple * multiple) for width in widths]
    within_limit = {size for size in computed if min(size) > 0 and max(size) <= MAX_ASPECT * min(size)}
    with_transposed = within_limit | {(height, width) for width, height in within_limit}
    return [square, *sorted(with_transposed - {square}, key=lambda size: (abs(np.log(size[0] / size[1])), size))]


def _round_to_multiple(length: float, multiple: int) -> int:
    return round(length / multiple) * multiple


def assign_buckets(image_sizes: np.ndarray, buckets: list[tuple[int, int]], max_upscale: float) -> np.ndarray:
    """The number in `buckets` of each picture's size (N2: width, height), or NONE.

    Among the sizes that enlarge it at most `max_upscale` times, the one nearest in proportions; the first of equals.
    """
    widths, heights = np.asarray(image_sizes, np.float64).reshape(-1, 2).T
    aspect_distance = np.empty((len(widths), len(buckets)))
    for number, (width, height) in enumerate(buckets):
        aspect_distance[:, number] = np.abs(np.log(widths / heights) - np.log(width / height)).round(9)
        aspect_distance[np.maximum(width / widths, height / heights) > max_upscale, number] = np.inf
    nearest = aspect_distance.argmin(axis=1)
    return np.where(np.isinf(aspect_distance.min(axis=1)), NO_BUCKET, nearest)
