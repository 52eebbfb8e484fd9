"""What a model is worth: its output error against the teacher, and the scenes' judge on its pictures."""

from collections.abc import Iterable

import numpy as np
from torch import nn

from prunella.benchmark.intervals import share
from prunella.samples.judge import CLAIMS, judge
from prunella.samples.scenes import Vocabulary
from prunella.training.losses import OUTPUT, Task, mse
from prunella.training.measuring import heldout_terms


def output_error(unet: nn.Module, teacher: nn.Module, scheduler, batches: Iterable[dict]) -> float:
    """Mean squared difference from the teacher's prediction on held-out pairs, their noise and timesteps fixed."""
    task = Task(scheduler)

    def loss(model, batch):
        return {OUTPUT: mse(task.predict(model, batch), task.predict(teacher, batch))}

    return heldout_terms(unet, loss, batches)[OUTPUT]


def composition(pictures: list[np.ndarray], captions: list[str], vocabulary: Vocabulary) -> dict[str, dict]:
    """ "composition" (share with every claim true) and "composition_by" claim; {} where no caption is a scene's."""
    verdicts = [judge(picture, text, vocabulary) for picture, text in zip(pictures, captions, strict=True)]
    verdicts = [verdict for verdict in verdicts if verdict is not None]
    if not verdicts:
        return {}
    by = {}
    for claim in CLAIMS:
        held = [verdict[claim] for verdict in verdicts if claim in verdict]
        if held:
            by[claim] = share(sum(held), len(held))
    return {"composition": share(sum(all(v.values()) for v in verdicts), len(verdicts)), "composition_by": by}
