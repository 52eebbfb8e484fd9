"""How a training fits into a GPU: how many examples at once, and what has to be given up for it."""

import math
from typing import NamedTuple

from prunella.cli.wizard.checkpoint import Checkpoint
from prunella.errors import UserError
from prunella.models.families import FAMILIES
from prunella.params import Distill
from prunella.pruning.plan import STUDENTS, Plan
from prunella.tracking.training_estimate import subject_of
from prunella.training.memory_estimate import GB, PLANNED, Subject, examples_at_once, needed

FEW = 4  # examples at once: below, running the forward pass twice costs less than a GPU that idles
# What is given up, in this order, where too little fits: time, then the optimizer's precision.
GIVEN_UP: tuple[dict, ...] = (
    {},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "optimizer": "adamw-8bit"},
)


class Sizes(NamedTuple):
    """What a distillation is to run with, and what that needs."""

    at_once: int  # examples
    given_up: dict
    need: float  # GB

    def __str__(self) -> str:
        said = "".join(f", {key}: {str(value).lower()}" for key, value in self.given_up.items())
        return f"{self.at_once} at once{said}, about {self.need:.1f} GB"


def sized(plan: Plan, checkpoint: Checkpoint, settings: Distill, memory: float) -> Sizes:
    """How the plan's student is distilled from the checkpoint on a GPU of `memory` GB.

    With gradient checkpointing where fewer than `FEW` examples fit without and more fit with it; with moments of 8 bits
    only where none fits else. Raises UserError where none fits at all, naming the students that would do.
    """
    subject, fitting = _subject(plan, checkpoint, settings), list[Sizes]()
    for change in GIVEN_UP:
        if fitting and "optimizer" in change:
            break
        changed = settings.model_copy(update=change)
        at_once = examples_at_once("auto", subject, changed, int(memory * GB))
        need = needed(subject, changed, at_once).total / GB
        if need <= PLANNED * memory:
            fitting.append(Sizes(at_once, change, need))
            if at_once >= min(FEW, settings.batch_size):
                break
    if not fitting:
        raise UserError(_too_large(plan, checkpoint, settings, memory))
    return max(fitting, key=lambda sizes: sizes.at_once)  # the first of equals


def _subject(plan: Plan, checkpoint: Checkpoint, settings: Distill) -> Subject:
    family, side = FAMILIES[plan.family], checkpoint.latent
    example = family.example(checkpoint.unet, (side, side), checkpoint.tokens)
    return subject_of(plan, checkpoint.unet, example, settings, gpu=True)


def _too_large(plan: Plan, checkpoint: Checkpoint, settings: Distill, memory: float) -> str:
    def least(each: Plan) -> float:
        changed = settings.model_copy(update=GIVEN_UP[-1] | {"features": None})
        return needed(_subject(each, checkpoint, changed), changed, 1).total / GB / PLANNED

    others = [each for each in STUDENTS.values() if each.family == plan.family and each.name != plan.name]
    fitting = [each.name for each in others if least(each) <= memory]
    instead = f"what would do: {', '.join(fitting)}" if fitting else "no other student of this teacher fits"
    return f"{plan.name} needs a GPU of {math.ceil(least(plan))} GB, even with one example at once; {instead}"
