"""Pruning: build the student from its config, copy the teacher's weights by the plan's map, strictly."""

import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.models.pipeline import build_meta_unet, load_unet, save_pipeline
from prunella.params import Prune
from prunella.pruning.mapping import student_config, teacher_key, weight_map
from prunella.pruning.plan import PLAN_FILE, Plan, read_plan


def prune(teacher_unet: UNet2DConditionModel, plan: Plan, *, shared: bool = False) -> UNet2DConditionModel:
    """A new UNet with the plan's blocks, holding copies of the teacher's weights in its dtype, on its device.

    The teacher is left untouched. `shared` takes its very tensors, for a student that is only looked
    at. Raises UserError where a weight has no counterpart of the same shape.
    """
    config = student_config(plan, dict(teacher_unet.config))
    student = build_meta_unet(config)
    teacher_state, module_map = teacher_unet.state_dict(), weight_map(plan, teacher_unet.config)
    student_state = {}
    for key, meta_tensor in student.state_dict().items():
        source_key = teacher_key(key, module_map)
        if source_key not in teacher_state or teacher_state[source_key].shape != meta_tensor.shape:
            found_shape = (
                f"of shape {tuple(teacher_state[source_key].shape)}" if source_key in teacher_state else "missing"
            )
            raise UserError(
                f"student {plan.name}: {key} {tuple(meta_tensor.shape)} needs the teacher's {source_key}, which is "
                f"{found_shape}"
            )
        tensor = teacher_state[source_key].detach()
        student_state[key] = tensor if shared else tensor.clone().contiguous()
    student.load_state_dict(student_state, strict=True, assign=True)
    return student.eval().requires_grad_(not shared)


def prune_to_folder(params: Prune, teacher_dir: Path, plan_path: Path, out: Path) -> tuple[int, int]:
    """Write the student that the file `plan_path` states as a pipeline folder `out`.

    Parameters of student and teacher.
    """
    teacher_unet = load_unet(teacher_dir, keep_dtype=True)
    student, num_teacher_params = prune(teacher_unet, read_plan(plan_path)), teacher_unet.num_parameters()
    del teacher_unet  # before VAE and text encoders are loaded: an SDXL teacher and its student fill 8 GB
    save_pipeline(teacher_dir, student, out, params.storage)
    shutil.copy2(plan_path, out / "unet" / PLAN_FILE)
    return student.num_parameters(), num_teacher_params
