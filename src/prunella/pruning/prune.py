"""Pruning: build the student from its config, copy the teacher's weights by the plan's map, strictly."""

import shutil
from pathlib import Path

from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.models.pipeline import empty_unet, load_unet, save_pipeline
from prunella.params import Prune
from prunella.pruning.mapping import student_config, teacher_key, weight_map
from prunella.pruning.plan import BESIDE, Plan, read_plan


def prune(teacher_unet: UNet2DConditionModel, plan: Plan, *, shared: bool = False) -> UNet2DConditionModel:
    """A new UNet with the plan's blocks, holding copies of the teacher's weights in its dtype, on its device.

    The teacher is left untouched. `shared` takes its very tensors, for a student that is only looked
    at. Raises UserError where a weight has no counterpart of the same shape.
    """
    config = student_config(plan, dict(teacher_unet.config))
    student = empty_unet(config)
    source, places = teacher_unet.state_dict(), weight_map(plan, teacher_unet.config)
    copied = {}
    for key, empty in student.state_dict().items():
        origin = teacher_key(key, places)
        if origin not in source or source[origin].shape != empty.shape:
            there = f"of shape {tuple(source[origin].shape)}" if origin in source else "missing"
            raise UserError(
                f"student {plan.name}: {key} {tuple(empty.shape)} needs the teacher's {origin}, which is {there}"
            )
        theirs = source[origin].detach()
        copied[key] = theirs if shared else theirs.clone().contiguous()
    student.load_state_dict(copied, strict=True, assign=True)
    return student.eval().requires_grad_(not shared)


def pruned(params: Prune, teacher: Path, plan: Path, out: Path) -> tuple[int, int]:
    """Write the student that the file `plan` states as a pipeline folder `out`; parameters of student and teacher."""
    whole = load_unet(teacher, as_stored=True)
    student, count = prune(whole, read_plan(plan)), whole.num_parameters()
    del whole  # before VAE and text encoders are loaded: an SDXL teacher and its student fill 8 GB
    save_pipeline(teacher, student, out, params.storage)
    shutil.copy2(plan, out / "unet" / BESIDE)
    return student.num_parameters(), count
