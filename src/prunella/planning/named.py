"""A student that is named: its plan is there already."""

import json
from pathlib import Path

from prunella.pruning.plan import find_plan
from prunella.storage.files import atomic_write_text


def copied(name: str, own: Path, out: Path, evidence: Path) -> Path:
    """Copy the plan called `name` to `out`, byte by byte, with `evidence` that it was not chosen; where it is from."""
    source = find_plan(name, own)
    atomic_write_text(evidence, json.dumps({"student": name, "chosen": False}) + "\n")
    out.write_bytes(source.read_bytes())
    return source
