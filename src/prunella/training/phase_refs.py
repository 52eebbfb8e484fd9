"""Names in a distillation's phases, looked up once: plans by their content, further teachers as they are pinned.

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


class PhaseRefs(NamedTuple):
    """Plans, and the pipeline folders of teachers, by the names that phases call them by."""

    plans: Mapping[str, Plan]
    teachers: Mapping[str, Path]


def write_phase_refs(phases: Sequence[Phase], teacher: Path, teachers: Path, plans: Path, out: Path) -> PhaseRefs:
    """Write to `out` what `phases` name, of the folders of pinned `teachers` and of the user's own `plans`.

    Raises UserError, naming the phase, for a plan that there is not, and for a teacher that cannot go on where
    `teacher`, the pinned first one, has ended: of another family, schedule, VAE or text encoders.
    """
    for number, phase in enumerate(phases):
        if phase.teacher:
            further_teacher = resolve_teacher_dir(teachers / f"{phase.teacher}.json")
            try:
                check_same_inputs(resolve_teacher_dir(teacher), further_teacher)
            except UserError as error:
                raise UserError(f"distill.phases.{number}.teacher: {phase.teacher} {error}") from None
    refs = {
        "plans": {name: read_plan(find_plan(name, plans)).model_dump() for name in _list_names(phases, "plan")},
        "teachers": {name: read_json(teachers / f"{name}.json") for name in _list_names(phases, "teacher")},
    }
    atomic_write_text(out, json.dumps(refs, indent=1, sort_keys=True) + "\n")
    return read_phase_refs(out)


def read_phase_refs(path: Path | None) -> PhaseRefs:
    """The result of `write_phase_refs`; without a path the plans that there are, and no teachers."""
    if path is None:
        return PhaseRefs(STUDENTS, {})
    refs = read_json(path)
    plans = {name: Plan.model_validate(plan) for name, plan in refs["plans"].items()}
    return PhaseRefs(plans, {name: resolve_pinned_dir(pin) for name, pin in refs["teachers"].items()})


def _list_names(phases: Sequence[Phase], key: str) -> list[str]:
    """The names under `key` in the phases, each once; a plan may be a share, which is no name."""
    return sorted({name for phase in phases if isinstance(name := getattr(phase, key), str)})
