"""A teacher's LoRA, carried over to a student: each update goes to the module that has the teacher's weights.

The student's modules come from the teacher's by the plan's weight map (`prunella.pruning.mapping`), so an update of one
is an update of the other, if as much of a guess as the student has learned to differ. What has no counterpart in the
student is left out and told. Text encoders are the teacher's own, so their updates stay as they are.
"""

from pathlib import Path
from typing import NamedTuple

from diffusers import UNet2DConditionModel
from torch import nn

from prunella.errors import UserError
from prunella.models.families import FAMILIES, family
from prunella.models.lora_files import UNET, Update, read_lora, write_lora
from prunella.models.pipeline import empty_unet, teacher_folder
from prunella.pruning.mapping import check_fit, student_config, teacher_key, weight_map
from prunella.pruning.plan import BESIDE, Plan, read_plan


class Carried(NamedTuple):
    """What was written: UNet modules with an update, the teacher's without counterpart, and text encoders' modules."""

    modules: list[str]
    without: list[str]
    beside: int


def carry(lora: Path, student: Path, teacher: Path, out: Path) -> Carried:
    """Write to `out` the LoRA `lora`, made for `teacher`, as one for the pipeline folder `student`.

    `teacher` is a pinned teacher or a pipeline folder. Raises UserError where the student is none of a plan's, or the
    LoRA none of the teacher's.
    """
    plan_file = student / "unet" / BESIDE
    if not plan_file.is_file():
        raise UserError(
            f"{student}: no unet/{BESIDE}, which says what its blocks come from; is it a student of Prunella?"
        )
    plan = read_plan(plan_file)
    folder = teacher_folder(teacher) if teacher.suffix == ".json" else teacher
    config = dict(UNet2DConditionModel.load_config(folder / "unet"))
    check_fit(plan, config)
    whole, small = empty_unet(config), empty_unet(student_config(plan, config))
    parts = read_lora(lora, whole)
    updates = parts.get(UNET, {})
    for module, update in updates.items():
        _check(module, update, whole, lora, config)
    places = by_teacher(plan, small, config)
    kept = {ours: updates[theirs] for theirs, ours in places.items() if theirs in updates}
    if updates and not kept:
        raise UserError(f"{lora}: none of its {len(updates)} modules has a counterpart in {student}")
    write_lora(out, parts | {UNET: kept})
    beside = sum(len(some) for part, some in parts.items() if part != UNET)
    return Carried(list(kept), sorted(updates.keys() - places.keys()), beside)


def by_teacher(plan: Plan, student: UNet2DConditionModel, teacher_config: dict) -> dict[str, str]:
    """Teacher's module → student's, of all modules with a weight."""
    places = weight_map(plan, teacher_config)
    ours = [name for name, module in student.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return {teacher_key(f"{name}.weight", places).removesuffix(".weight"): name for name in ours}


def _check(module: str, update: Update, teacher: UNet2DConditionModel, lora: Path, config: dict) -> None:
    """Raises UserError where the teacher has no such module, or one of another shape."""
    named = family(config)
    title = FAMILIES[named].title if named else "the teacher"
    try:
        weight = teacher.get_submodule(module).weight
    except AttributeError:
        raise UserError(f"{lora}: made for another model: {title} has no {module}") from None
    shape = (update.up.shape[0], update.down.shape[1])
    if shape != tuple(weight.shape[:2]):
        there = tuple(weight.shape[:2])
        raise UserError(
            f"{lora}: made for another model: its {module} is of {shape[1]} to {shape[0]} channels, this teacher's of "
            f"{there[1]} to {there[0]} ({title})"
        )
