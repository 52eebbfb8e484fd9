"""Losses of a student: `loss(student, batch) -> {"loss": total, term: value, …}`.

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
from prunella.training.data import Batch, auxiliary_batch
from prunella.training.feature_capture import capture_outputs
from prunella.training.objectives import Objective, make_objective
from prunella.training.teacher_cache import TeacherOutputCache, TeacherOutputs

OUTPUT, TASK = "output", "task"
Loss = Callable[[Any, Batch], dict[str, Tensor]]


def per_sample_mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of each example (N)."""
    return (a.float() - b.float()).square().flatten(1).mean(1)


def feature_error(student_features: Tensor, teacher_features: Tensor, normalisation: FeatureNormalization) -> Tensor:
    """Error of a feature by example (N); by "teacher" as a share of the teacher's mean square.

    Raw feature terms start ten to thirty times above the task's, and a few large ones rule the sum; LAPTOP-Diff
    (arXiv 2404.11098) divides each by the teacher feature's squared norm for that reason.
    """
    error = per_sample_mse(student_features, teacher_features)
    return (
        error
        if normalisation == "none"
        else error / teacher_features.float().square().flatten(1).mean(1).clamp_min(1e-8)
    )


class DiffusionLoss:
    """The diffusion objective alone: the prediction against noise or v.

    `snr_gamma` weighs examples by min-SNR (see `Objective.weight`) in the total; the terms by name stay plain means,
    so that they compare between runs.
    """

    def __init__(self, scheduler: DDPMScheduler, snr_gamma: float | None = None):
        self.objective: Objective = make_objective(scheduler)
        self.snr_gamma = snr_gamma
        last = torch.tensor([scheduler.config.num_train_timesteps - 1])
        if snr_gamma is not None and not self.objective.min_snr_weight(last, snr_gamma).item():
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
        return per_sample_mse(predicted, self.objective.target(batch["latents"], batch["noise"], batch["timesteps"]))

    def weighted_mean(self, errors: Tensor, batch: Batch) -> Tensor:
        """Their mean, as it counts in the total."""
        if self.snr_gamma is None:
            return errors.mean()
        return (self.objective.min_snr_weight(batch["timesteps"], self.snr_gamma) * errors).mean()

    def __call__(self, unet: nn.Module, batch: Batch) -> dict[str, Tensor]:
        errors = self.errors(self.predict(unet, batch), batch)
        return {"loss": self.weighted_mean(errors, batch), TASK: errors.mean()}


class OutputDistillationLoss:
    """task + output_weight·output: the diffusion objective, and the teacher's prediction beside it."""

    def __init__(self, task: DiffusionLoss, teacher: nn.Module, output_weight: float):
        self.task, self.teacher, self.output_weight = task, teacher.requires_grad_(False).eval(), output_weight

    def __call__(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher_prediction = self.task.predict(self.teacher, batch)
        predicted = self.task.predict(student, batch)
        errors, differences = self.task.errors(predicted, batch), per_sample_mse(predicted, teacher_prediction)
        total = self.task.weighted_mean(errors, batch) + self.output_weight * self.task.weighted_mean(
            differences, batch
        )
        return {"loss": total, TASK: errors.mean(), OUTPUT: differences.mean()}


class LossWithAuxiliary:
    """`loss` of the pairs, and that of what the batch has beside them, by `weights` of each kind (PRIOR, REHEARSAL).

    Therefore a model keeps what it could: by pictures that it drew of a thing's class (DreamBooth, arXiv 2208.12242),
    or by pairs that it learned from before (experience replay, Rolnick et al. 2018, arXiv 1811.11682). The task error
    of each kind is told under its name.
    """

    def __init__(self, loss: Loss, weights: Mapping[str, float]):
        self.loss, self.weights = loss, weights

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        terms = self.loss(model, batch)
        for kind, weight in self.weights.items():
            if pairs := auxiliary_batch(batch, kind):
                auxiliary_terms = self.loss(model, pairs)
                terms |= {"loss": terms["loss"] + weight * auxiliary_terms["loss"], kind: auxiliary_terms[TASK]}
        return terms


class DistillationLoss:
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
        self.task = DiffusionLoss(scheduler, weights.snr_gamma)
        self.weights = weights
        self.feature_error = compile_function(feature_error) if compile else feature_error
        self.teacher_cache = TeacherOutputCache()

    def __call__(self, student: nn.Module, batch: Batch) -> dict[str, Tensor]:
        is_evaluation, weights = not student.training, self.weights
        progress = float(batch.get("share", 1.0))
        pairs = self.pairs if is_evaluation or is_weight_active(weights.feature_weight) else []
        teacher_prediction, teacher_features = None, {}
        if is_evaluation:  # batches of the held-out split, which come again
            teacher_prediction, features = self.teacher_cache(batch, lambda: self._run_teacher(batch, pairs))
            teacher_features = dict(features)
        elif pairs or is_weight_active(weights.output_weight):
            teacher_prediction, teacher_features = self._run_teacher(batch, pairs)
        with capture_outputs(student, {pair.student for pair in pairs}) as student_features:
            predicted = self.task.predict(student, batch)
        errors = self.task.errors(predicted, batch)
        terms = {TASK: errors.mean()}
        total = weight_at(weights.task_weight, progress) * self.task.weighted_mean(errors, batch)
        if teacher_prediction is not None:
            errors = per_sample_mse(predicted, teacher_prediction)
            terms[OUTPUT] = errors.mean()
            total = total + weight_at(weights.output_weight, progress) * self.task.weighted_mean(errors, batch)
        if features := self._compare_features(pairs, student_features, teacher_features):
            total = total + weight_at(weights.feature_weight, progress) * sum(features.values())
        return {"loss": total, **terms, **features}

    def _run_teacher(self, batch: Batch, pairs: list[FeaturePair]) -> TeacherOutputs:
        with torch.no_grad(), capture_outputs(self.teacher, {pair.teacher for pair in pairs}) as features:
            return TeacherOutputs(self.task.predict(self.teacher, batch), features)

    def _compare_features(
        self, pairs: list[FeaturePair], student_features: dict, teacher_features: dict
    ) -> dict[str, Tensor]:
        """Each pair's error; its tensors are let go of as soon as it is known."""
        normalization = self.weights.feature_normalization
        return {
            f"feature/{pair.name}": self.feature_error(
                student_features.pop(pair.student), teacher_features.pop(pair.teacher), normalization
            ).mean()
            for pair in pairs
        }


def weight_at(weight: LossWeight, progress: float) -> float:
    """A weight when `progress` of the training is done: straight between its points, constant before and after them."""
    if not isinstance(weight, list):
        return weight
    points, values = zip(*weight, strict=True)
    return float(np.interp(progress, points, values))
