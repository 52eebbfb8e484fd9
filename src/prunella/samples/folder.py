"""Pictures in a folder with `metadata.jsonl` (`file_name`, `text`), the convention of `datasets`' imagefolder."""

import json
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageOps

from prunella.errors import UserError

METADATA = "metadata.jsonl"


def entries(path: Path) -> Iterator[tuple[str, str]]:
    """(file name, caption) line by line; an absent caption is "". Raises UserError for what is no such folder."""
    if not path.is_dir():
        raise UserError(f"filter.path: there is no folder {path}; it should hold pictures and {METADATA}")
    listing = path / METADATA
    if not listing.is_file():
        raise UserError(
            f"filter.path: {path} has no {METADATA}, so its pictures have no captions; "
            'write one line a picture, as {"file_name": "cat.png", "text": "a cat"}'
        )
    for number, line in enumerate(listing.read_text(errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name = row["file_name"]
        except (ValueError, KeyError, TypeError):
            raise UserError(
                f'{listing}, line {number}: expected {{"file_name": …, "text": …}}, got {line[:80]!r}'
            ) from None
        if not isinstance(name, str) or not (path / name).resolve().is_relative_to(path.resolve()):
            raise UserError(f"{listing}, line {number}: file_name {name!r} is not a file below {path}")
        text = row.get("text")
        yield name, text if isinstance(text, str) else ""


def read_picture(path: Path) -> Image.Image:
    """The picture as RGB: turned as its EXIF says, transparency laid on white. Raises OSError when unreadable."""
    try:
        with Image.open(path) as opened:
            turned = ImageOps.exif_transpose(opened)
            if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
                whole = turned.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
            return turned.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"{path}: {error}") from error
