"""Files that are whole or absent, their sums, and short names for what something was made of."""

import hashlib
import json
from pathlib import Path
from typing import Any


def atomic_write_text(path: Path, text: str) -> None:
    """Write a file beside and rename it, so that whoever is killed meanwhile leaves the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(text)
    half.replace(path)


def json_digest(known: Any) -> str:
    """16 digits that stand for something that JSON can hold."""
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
