"""Examples of pairs that were kept or fell out, as thumbnails and a list, for a page that shows them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from prunella.data.images import RejectedImage
from prunella.storage.files import atomic_write_text

if TYPE_CHECKING:
    from prunella.data.rejections import Example

THUMBNAIL_SIDE = 144  # pixels of a thumbnail's longer side
EXAMPLES_FILE = "examples.json"


def write_examples(
    out: Path, examples: Mapping[str, list["Example"]], load_image: Callable[[str], Image.Image]
) -> None:
    """Write thumbnails (JPEG) and `examples.json`: {criterion: [{"key", "text", "note", "image"}]} into `out`.

    `load_image` gives a pair's picture by its key. Without an image, "image" is null and "note" says why.
    """
    out.mkdir(parents=True, exist_ok=True)
    entries = {
        criterion: [
            _write_thumbnail(example, load_image, out, f"{criterion}-{number}.jpg")
            for number, example in enumerate(group)
        ]
        for criterion, group in examples.items()
    }
    atomic_write_text(out / EXAMPLES_FILE, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def _write_thumbnail(example: "Example", load_image: Callable[[str], Image.Image], out: Path, name: str) -> dict:
    entry = {"key": example.key, "text": example.text, "note": example.cause, "image": name}
    try:
        thumbnail = load_image(example.key)
        thumbnail.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        thumbnail.save(out / name, "JPEG", quality=85)
    except Exception as reason:  # whatever is wrong with one picture, a long run's report is still written
        cause = str(reason) if isinstance(reason, RejectedImage) else "no picture"
        return entry | {"image": None, "note": example.cause or cause}
    return entry
