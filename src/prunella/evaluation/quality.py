"""What a model is worth: its output error against the teacher, and the scenes' judge on its pictures."""

from collections.abc import Iterable

import numpy as np
from torch import nn

from prunella.evaluation.metrics.latent_frechet import features, frechet
from prunella.evaluation.stats import share
from prunella.latents.encoders import raw_latents
from prunella.latents.shards import Latents
from prunella.scenes.generator import Vocabulary
from prunella.scenes.judge import CLAIMS, judge
from prunella.training.losses import OUTPUT, Task, squares
from prunella.training.validate import evaluate_loss


def output_error(unet: nn.Module, teacher: nn.Module, scheduler, batches: Iterable[dict]) -> float:
    """Mean squared difference from the teacher's prediction on held-out pairs, their noise and timesteps fixed."""
    task = Task(scheduler)

    def loss(model, batch):
        return {OUTPUT: squares(task.predict(model, batch), task.predict(teacher, batch)).mean()}

    return evaluate_loss(unet, loss, batches)[OUTPUT]


class Fidelity:
    """Fréchet distance of drawn pictures from real ones, in the space of `metrics.latent_frechet`, scaled.

    The held-out pictures are split: the first `drawn`, whose captions are drawn, and the others, which both the drawn
    and the first are compared with: the latter is the floor. Nothing is measured with fewer than two of either.
    """

    def __init__(self, vae, heldout: Latents, drawn: int):
        self.vae, self.scaling_factor = vae, heldout.scaling_factor
        sizes = heldout.groups(np.arange(len(heldout)))
        real = np.concatenate([features(heldout.take(some)["mean"] * self.scaling_factor) for some in sizes])
        self.first, self.others = real[:drawn], real[drawn:]
        self.possible = min(len(self.first), len(self.others)) >= 2

    def __call__(self, pictures: list[np.ndarray]) -> dict[str, float]:
        """{"frechet": …} of the drawn pictures (HWC uint8, of the held-out ones' size)."""
        if not self.possible:
            return {}
        mean, _ = raw_latents(self.vae, np.stack(pictures))
        return {"frechet": frechet(features(mean * self.scaling_factor), self.others)}

    def floor(self) -> dict[str, dict]:
        """{"frechet_floor": {"value": …, "pictures": …, "against": …}}."""
        if not self.possible:
            return {}
        value = frechet(self.first, self.others)
        return {"frechet_floor": {"value": value, "pictures": len(self.first), "against": len(self.others)}}


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
