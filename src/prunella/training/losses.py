"""What a student learns from: `loss(student, batch) -> {"loss": total, term: value, …}`.

Every term is a mean squared error over all elements, computed in fp32 (in fp16 a feature that differs by 256
overflows when squared). A batch: "latents" and "noise" (NCHW), "timesteps" (N), "states" (NLD, text embeddings);
for SDXL also "pooled" (NP, text embedding) and "sizes" (N6, size conditioning).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prunella.params import Distill
from prunella.students.derive import FeaturePair
from prunella.training.noise import target
from prunella.training.taps import taps

Batch = dict[str, Tensor]
OUTPUT, TASK = "output", "task"


def mse(a: Tensor, b: Tensor) -> Tensor:
    return F.mse_loss(a.float(), b.float())


class Task:
    """The diffusion objective alone: the prediction against noise or v."""

    def __init__(self, scheduler):
        self.scheduler = scheduler

    def predict(self, unet: nn.Module, batch: Batch) -> Tensor:
        noisy = self.scheduler.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        added = {}
        if "pooled" in batch:
            added = {"added_cond_kwargs": {"text_embeds": batch["pooled"], "time_ids": batch["sizes"]}}
        return unet(noisy, batch["timesteps"], batch["states"], **added).sample

    def error(self, predicted: Tensor, batch: Batch) -> Tensor:
        return mse(predicted, target(batch["latents"], batch["noise"], batch["timesteps"], self.scheduler))

    def __call__(self, unet: nn.Module, batch: Batch) -> dict[str, Tensor]:
        task = self.error(self.predict(unet, batch), batch)
        return {"loss": task, TASK: task}


class Distillation:
    """task_weight·task + output_weight·output + feature_weight·Σ features, as BK-SDM (arXiv 2305.15798, eq. 1-4).

    `output` is the student's prediction against the teacher's; each feature pair is logged by its name under
    `feature/`. A weight of 0 leaves its term out of the total; features are then not even listened to.
    """

    def __init__(self, teacher: nn.Module, pairs: list[FeaturePair], scheduler, weights: Distill):
        self.teacher = teacher.requires_grad_(False).eval()
        self.pairs = pairs if weights.feature_weight else []
        self.task = Task(scheduler)
        self.weights = weights

    def __call__(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad(), taps(self.teacher, {pair.teacher for pair in self.pairs}) as theirs:
            taught = self.task.predict(self.teacher, batch)
        with taps(student, {pair.student for pair in self.pairs}) as ours:
            predicted = self.task.predict(student, batch)
        terms = {TASK: self.task.error(predicted, batch), OUTPUT: mse(predicted, taught)}
        features = {f"feature/{pair.name}": mse(ours[pair.student], theirs[pair.teacher]) for pair in self.pairs}
        total = self.weights.task_weight * terms[TASK] + self.weights.output_weight * terms[OUTPUT]
        if features:
            total = total + self.weights.feature_weight * sum(features.values())
        return {"loss": total, **terms, **features}
