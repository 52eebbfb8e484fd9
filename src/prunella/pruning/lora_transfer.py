"""A teacher's LoRA, carried over to a student: each update goes to the module that has the teacher's weights.

The student's modules come from the teacher's by the plan's weight map (`prunella.pruning.mapping`), so an update of one
is an update of the other, if as much of a guess as the student has learned to differ. A weight without counterpart in
the student is left out and told. Text encoders are the teacher's own, so their updates stay as they are.
"""

from pathlib import Path
from typing import NamedTuple

from diffusers import UNet2DConditionModel
from torch import nn

from prunella.errors import UserError
from prunella.models.families import FAMILIES, detect_teacher_family
from prunella.models.lora_files import UNET, LoraUpdate, read_lora, write_lora
from prunella.models.pipeline import build_meta_unet, resolve_teacher_dir
from prunella.pruning.mapping import check_plan_compatible, student_config, teacher_key, weight_map
from prunella.pruning.plan import PLAN_FILE, Plan, read_plan


class LoraTransferReport(NamedTuple):
    """The result: UNet modules with an update, the teacher's without counterpart, and text encoders' modules."""

    modules: list[str]
    unmatched: list[str]
    text_encoder_modules: int


def transfer_lora(lora_path: Path, student_dir: Path, teacher: Path, out: Path) -> LoraTransferReport:
    """Write to `out` the LoRA `lora_path`, made for `teacher`, as one for the pipeline folder `student_dir`.

    `teacher` is a pinned teacher or a pipeline folder. Raises UserError where the student is none of a plan's, or the
    LoRA none of the teacher's.
    """
    plan_file = student_dir / "unet" / PLAN_FILE
    if not plan_file.is_file():
        raise UserError(
            f"{student_dir}: no unet/{PLAN_FILE}, which says what its blocks come from; is it a student of Prunella?"
        )
    plan = read_plan(plan_file)
    teacher_dir = resolve_teacher_dir(teacher) if teacher.suffix == ".json" else teacher
    teacher_config = dict(UNet2DConditionModel.load_config(teacher_dir / "unet"))
    check_plan_compatible(plan, teacher_config)
    teacher_unet, student_unet = build_meta_unet(teacher_config), build_meta_unet(student_config(plan, teacher_config))
    updates_by_component = read_lora(lora_path, teacher_unet)
    updates = updates_by_component.get(UNET, {})
    for module, update in updates.items():
        _check_update(module, update, teacher_unet, lora_path, teacher_config)
    student_modules = map_modules(plan, student_unet, teacher_config)
    student_updates = {
        student_module: updates[teacher_module]
        for teacher_module, student_module in student_modules.items()
        if teacher_module in updates
    }
    if updates and not student_updates:
        raise UserError(f"{lora_path}: none of its {len(updates)} modules has a counterpart in {student_dir}")
    write_lora(out, updates_by_component | {UNET: student_updates})
    num_text_modules = sum(
        len(component_updates) for component, component_updates in updates_by_component.items() if component != UNET
    )
    return LoraTransferReport(list(student_updates), sorted(updates.keys() - student_modules.keys()), num_text_modules)


def map_modules(plan: Plan, student_unet: UNet2DConditionModel, teacher_config: dict) -> dict[str, str]:
    """Teacher's module → student's, of all modules with a weight."""
    module_map = weight_map(plan, teacher_config)
    module_names = [name for name, module in student_unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return {teacher_key(f"{name}.weight", module_map).removesuffix(".weight"): name for name in module_names}


def _check_update(
    module_name: str, update: LoraUpdate, teacher_unet: UNet2DConditionModel, lora_path: Path, teacher_config: dict
) -> None:
    """Raises UserError where the teacher has no such module, or one of another shape."""
    detected_family = detect_teacher_family(teacher_config)
    title = FAMILIES[detected_family].title if detected_family else "the teacher"
    try:
        weight = teacher_unet.get_submodule(module_name).weight
    except AttributeError:
        raise UserError(f"{lora_path}: made for another model: {title} has no {module_name}") from None
    shape = (update.up.shape[0], update.down.shape[1])
    if shape != tuple(weight.shape[:2]):
        expected_shape = tuple(weight.shape[:2])
        raise UserError(
            f"{lora_path}: made for another model: its {module_name} is of {shape[1]} to {shape[0]} channels, this "
            "teacher's of "
            f"{expected_shape[1]} to {expected_shape[0]} ({title})"
        )
