"""How a training fits into a GPU: how many examples at once, and what has to be given up for it."""

import math
from typing import NamedTuple

from prunella.cli.wizard.checkpoint import Checkpoint
from prunella.errors import UserError
from prunella.models.families import FAMILIES
from prunella.params import Distill
from prunella.pruning.plan import STUDENTS, Plan
from prunella.tracking.training_estimate import make_memory_spec
from prunella.training.memory_estimate import GB, USABLE_FRACTION, MemorySpec, choose_micro_batch, estimate_memory

MIN_MICRO_BATCH = 4  # examples at once: below, running the forward pass twice costs less than a GPU that idles
# What is given up, in this order, where too little fits: time, then the optimizer's precision.
MEMORY_SAVERS: tuple[dict, ...] = (
    {},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "optimizer": "adamw-8bit"},
)


class GpuFit(NamedTuple):
    """Settings of a distillation, and what they need."""

    micro_batch: int  # examples
    memory_savers: dict
    memory_gb: float  # GB

    def __str__(self) -> str:
        savers_text = "".join(f", {key}: {str(value).lower()}" for key, value in self.memory_savers.items())
        return f"{self.micro_batch} at once{savers_text}, about {self.memory_gb:.1f} GB"


def fit_to_gpu(plan: Plan, checkpoint: Checkpoint, settings: Distill, gpu_memory_gb: float) -> GpuFit:
    """How the plan's student is distilled from the checkpoint on a GPU of `gpu_memory_gb` GB.

    With gradient checkpointing where fewer than `MIN_MICRO_BATCH` examples fit without and more fit with it; with
    moments of 8 bits only where none fits else. Raises UserError where none fits at all, naming the students that
    would do.
    """
    memory_spec, fits = _make_distill_memory_spec(plan, checkpoint, settings), list[GpuFit]()
    for savers in MEMORY_SAVERS:
        if fits and "optimizer" in savers:
            break
        changed = settings.model_copy(update=savers)
        micro_batch = choose_micro_batch("auto", memory_spec, changed, int(gpu_memory_gb * GB))
        memory_gb = estimate_memory(memory_spec, changed, micro_batch).total / GB
        if memory_gb <= USABLE_FRACTION * gpu_memory_gb:
            fits.append(GpuFit(micro_batch, savers, memory_gb))
            if micro_batch >= min(MIN_MICRO_BATCH, settings.batch_size):
                break
    if not fits:
        raise UserError(_explain_too_large(plan, checkpoint, settings, gpu_memory_gb))
    return max(fits, key=lambda fit: fit.micro_batch)  # the first of equals


def _make_distill_memory_spec(plan: Plan, checkpoint: Checkpoint, settings: Distill) -> MemorySpec:
    family, latent_size = FAMILIES[plan.family], checkpoint.latent_size
    example = family.example_shapes(checkpoint.unet_config, (latent_size, latent_size), checkpoint.max_tokens)
    return make_memory_spec(plan, checkpoint.unet_config, example, settings, gpu=True)


def _explain_too_large(plan: Plan, checkpoint: Checkpoint, settings: Distill, gpu_memory_gb: float) -> str:
    def min_memory_gb(candidate: Plan) -> float:
        changed = settings.model_copy(update=MEMORY_SAVERS[-1] | {"features": None})
        return (
            estimate_memory(_make_distill_memory_spec(candidate, checkpoint, changed), changed, 1).total
            / GB
            / USABLE_FRACTION
        )

    other_plans = [other for other in STUDENTS.values() if other.family == plan.family and other.name != plan.name]
    fitting = [other.name for other in other_plans if min_memory_gb(other) <= gpu_memory_gb]
    suggestion = f"what would do: {', '.join(fitting)}" if fitting else "no other student of this teacher fits"
    return (
        f"{plan.name} needs a GPU of {math.ceil(min_memory_gb(plan))} GB, even with one example at once; {suggestion}"
    )
