"""What a distillation's phases name, looked up once: plans by their content, further teachers as they are pinned.

In one file, so that a plan or teacher that no phase names re-trains nothing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prunella.errors import UserError
from prunella.models.alike import check_same_inputs
from prunella.models.pipeline import resolve_pinned_dir, resolve_teacher_dir
from prunella.params import Phase
from prunella.pruning.plan import STUDENTS, Plan, find_plan, read_plan
from prunella.storage.files import atomic_write_text, read_json


class Named(NamedTuple):
    """Plans, and the pipeline folders of teachers, by the names that phases call them by."""

    plans: Mapping[str, Plan]
    teachers: Mapping[str, Path]


def write_named(phases: Sequence[Phase], teacher: Path, teachers: Path, plans: Path, out: Path) -> Named:
    """Write to `out` what `phases` name, of the folders of pinned `teachers` and of the user's own `plans`.

    Raises UserError, naming the phase, for a plan that there is not, and for a teacher that cannot go on where
    `teacher`, the pinned first one, has ended: of another family, schedule, VAE or text encoders.
    """
    for number, phase in enumerate(phases):
        if phase.teacher:
            further = resolve_teacher_dir(teachers / f"{phase.teacher}.json")
            try:
                check_same_inputs(resolve_teacher_dir(teacher), further)
            except UserError as error:
                raise UserError(f"distill.phases.{number}.teacher: {phase.teacher} {error}") from None
    found = {
        "plans": {name: read_plan(find_plan(name, plans)).model_dump() for name in _names(phases, "plan")},
        "teachers": {name: read_json(teachers / f"{name}.json") for name in _names(phases, "teacher")},
    }
    atomic_write_text(out, json.dumps(found, indent=1, sort_keys=True) + "\n")
    return read_named(out)


def read_named(path: Path | None) -> Named:
    """What `write_named` wrote; without a path the plans that there are, and no teachers."""
    if path is None:
        return Named(STUDENTS, {})
    known = read_json(path)
    plans = {name: Plan.model_validate(plan) for name, plan in known["plans"].items()}
    return Named(plans, {name: resolve_pinned_dir(pin) for name, pin in known["teachers"].items()})


def _names(phases: Sequence[Phase], key: str) -> list[str]:
    """What phases call `key`, each once; a plan may be a share, which is no name."""
    return sorted({name for phase in phases if isinstance(name := getattr(phase, key), str)})
