"""What a student learns from: `loss(student, batch) -> {"loss": total, term: value, …}`.

Every term is a mean of squared errors over all elements, computed in fp32 (in fp16 a feature that differs by 256
overflows when squared), and a mean over examples, so that a batch may be cut into equal parts. A batch: "latents" and
"noise" (NCHW), "timesteps" (N), "states" (NLD, text embeddings); for SDXL also "pooled" (NP, text embedding) and
"sizes" (N6, size conditioning); while training "share", of the training that is done, for weights that change.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from prunella.compute.compile import compile_function
from prunella.models.families import predict_with_unet
from prunella.params import Distill, FeatureNormalization, LossWeight, is_weight_active
from prunella.pruning.mapping import FeaturePair
from prunella.training.data import Batch, beside
from prunella.training.feature_capture import capture_outputs
from prunella.training.objectives import Objective, objective
from prunella.training.teacher_cache import Remembered, Said

OUTPUT, TASK = "output", "task"
Loss = Callable[[Any, Batch], dict[str, Tensor]]


def squares(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each example (N)."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def feature_error(ours: Tensor, theirs: Tensor, normalisation: FeatureNormalization) -> Tensor:
    """Error of a feature by example (N); by "teacher" as a share of the teacher's mean square.

    Raw feature terms start ten to thirty times above the task's, and a few large ones rule the sum; LAPTOP-Diff
    (arXiv 2404.11098) divides each by the teacher feature's squared norm for that reason.
    """
    error = squares(ours, theirs)
    return error if normalisation == "none" else error / theirs.float().square().flatten(1).mean(1).clamp_min(1e-8)


class Task:
    """The diffusion objective alone: the prediction against noise or v.

    `snr_gamma` weighs examples by min-SNR (see `Objective.weight`) in the total; the terms by name stay plain means,
    so that they compare between runs.
    """

    def __init__(self, scheduler: DDPMScheduler, snr_gamma: float | None = None):
        self.objective: Objective = objective(scheduler)
        self.snr_gamma = snr_gamma
        last = torch.tensor([scheduler.config.num_train_timesteps - 1])
        if snr_gamma is not None and not self.objective.weight(last, snr_gamma).item():
            warnings.warn(
                "snr_gamma: nothing is left of the signal at the teacher's last timestep, which min-SNR then gives no "
                "weight, though such teachers are made for it; snr_gamma: null weighs it like the others",
                stacklevel=2,
            )

    def predict(self, unet: nn.Module, batch: Batch) -> Tensor:
        """The UNet's prediction (NCHW) of the batch's corrupted latents."""
        noisy = self.objective.corrupt(batch["latents"], batch["noise"], batch["timesteps"])
        return predict_with_unet(unet, noisy, batch["timesteps"], batch)

    def errors(self, predicted: Tensor, batch: Batch) -> Tensor:
        """Squared error of each example (N)."""
        return squares(predicted, self.objective.target(batch["latents"], batch["noise"], batch["timesteps"]))

    def weighted(self, errors: Tensor, batch: Batch) -> Tensor:
        """Their mean, as it counts in the total."""
        if self.snr_gamma is None:
            return errors.mean()
        return (self.objective.weight(batch["timesteps"], self.snr_gamma) * errors).mean()

    def __call__(self, unet: nn.Module, batch: Batch) -> dict[str, Tensor]:
        errors = self.errors(self.predict(unet, batch), batch)
        return {"loss": self.weighted(errors, batch), TASK: errors.mean()}


class Taught:
    """task + output_weight·output: the diffusion objective, and the teacher's prediction beside it."""

    def __init__(self, task: Task, teacher: nn.Module, output_weight: float):
        self.task, self.teacher, self.output_weight = task, teacher.requires_grad_(False).eval(), output_weight

    def __call__(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            taught = self.task.predict(self.teacher, batch)
        predicted = self.task.predict(student, batch)
        errors, differences = self.task.errors(predicted, batch), squares(predicted, taught)
        total = self.task.weighted(errors, batch) + self.output_weight * self.task.weighted(differences, batch)
        return {"loss": total, TASK: errors.mean(), OUTPUT: differences.mean()}


class Preserving:
    """`loss` of the pairs, and that of what the batch has beside them, by `weights` of each kind (PRIOR, REHEARSAL).

    So a model keeps what it could: by pictures that it drew of a thing's class (DreamBooth, arXiv 2208.12242), or by
    pairs that it learned from before (experience replay, Rolnick et al. 2018, arXiv 1811.11682). The task error of
    each kind is told under its name.
    """

    def __init__(self, loss: Loss, weights: Mapping[str, float]):
        self.loss, self.weights = loss, weights

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        terms = self.loss(model, batch)
        for kind, weight in self.weights.items():
            if pairs := beside(batch, kind):
                kept = self.loss(model, pairs)
                terms |= {"loss": terms["loss"] + weight * kept["loss"], kind: kept[TASK]}
        return terms


class Distillation:
    """task_weight·task + output_weight·output + feature_weight·Σ features, as BK-SDM (arXiv 2305.15798, eq. 1-4).

    `output` is the student's prediction against the teacher's; each feature pair is logged by its name under
    `feature/`. Min-SNR weighs task and output alike, both being errors of the prediction; features are left as they
    are. While training, what has no weight is not computed: without features nothing is listened to, without output
    either the teacher does not run. In evaluation mode every term is measured, whatever its weight.
    """

    def __init__(
        self,
        teacher: nn.Module,
        pairs: list[FeaturePair],
        scheduler: DDPMScheduler,
        weights: Distill,
        *,
        compile: bool = False,
    ):
        self.teacher = teacher.requires_grad_(False).eval()
        self.pairs = pairs
        self.task = Task(scheduler, weights.snr_gamma)
        self.weights = weights
        self.feature_error = compile_function(feature_error) if compile else feature_error
        self.remembered = Remembered()

    def __call__(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        measured, weights = not student.training, self.weights
        share = float(batch.get("share", 1.0))
        pairs = self.pairs if measured or is_weight_active(weights.feature_weight) else []
        taught, theirs = None, {}
        if measured:  # batches of the held-out split, which come again
            taught, features = self.remembered(batch, lambda: self._said(batch, pairs))
            theirs = dict(features)
        elif pairs or is_weight_active(weights.output_weight):
            taught, theirs = self._said(batch, pairs)
        with capture_outputs(student, {pair.student for pair in pairs}) as ours:
            predicted = self.task.predict(student, batch)
        errors = self.task.errors(predicted, batch)
        terms = {TASK: errors.mean()}
        total = at(weights.task_weight, share) * self.task.weighted(errors, batch)
        if taught is not None:
            errors = squares(predicted, taught)
            terms[OUTPUT] = errors.mean()
            total = total + at(weights.output_weight, share) * self.task.weighted(errors, batch)
        if features := self._features(pairs, ours, theirs):
            total = total + at(weights.feature_weight, share) * sum(features.values())
        return {"loss": total, **terms, **features}

    def _said(self, batch: Batch, pairs: list[FeaturePair]) -> Said:
        with torch.no_grad(), capture_outputs(self.teacher, {pair.teacher for pair in pairs}) as features:
            return Said(self.task.predict(self.teacher, batch), features)

    def _features(self, pairs: list[FeaturePair], ours: dict, theirs: dict) -> dict[str, Tensor]:
        """Each pair's error; its tensors are let go of as soon as it is known."""
        how = self.weights.feature_normalization
        return {
            f"feature/{pair.name}": self.feature_error(ours.pop(pair.student), theirs.pop(pair.teacher), how).mean()
            for pair in pairs
        }


def at(weight: LossWeight, share: float) -> float:
    """A weight when `share` of the training is done: straight between its points, constant before and after them."""
    if not isinstance(weight, list):
        return weight
    shares, values = zip(*weight, strict=True)
    return float(np.interp(share, shares, values))
