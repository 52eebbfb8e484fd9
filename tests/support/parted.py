"""Parts of a stage's work, as tests make them another's."""

import json
from collections.abc import Callable
from pathlib import Path

from prunella.compute.slices import SLICE_FILE


def spoilt(folder: Path, spoil: Callable[[dict], object]) -> Path:
    """The part, whose note says something else now."""
    note = json.loads((folder / SLICE_FILE).read_text())
    spoil(note)
    (folder / SLICE_FILE).write_text(json.dumps(note))
    return folder
