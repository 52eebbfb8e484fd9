"""A student that is named: its plan is there already."""

import json
from pathlib import Path

from prunella.pruning.plan import find_plan
from prunella.storage.files import atomic_write_text


def copy_plan(name: str, user_plans: Path, plan_path: Path, evidence_path: Path) -> Path:
    """Copy the plan called `name` to `plan_path`, byte by byte, with `evidence_path` that it was not chosen.

    Its origin.
    """
    source_path = find_plan(name, user_plans)
    atomic_write_text(evidence_path, json.dumps({"student": name, "chosen": False}) + "\n")
    plan_path.write_bytes(source_path.read_bytes())
    return source_path
