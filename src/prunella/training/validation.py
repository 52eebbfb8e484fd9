"""What is watched while a student learns: held-out values, pictures beside the teacher's, its best weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prunella.compute.compile import eager
from prunella.compute.precision import computing
from prunella.evaluation.drawing import draw, grid
from prunella.latents.shards import Latents
from prunella.params import Learning
from prunella.training.batch import heldout_batches
from prunella.training.loop import ema_weights
from prunella.training.metrics_log import MetricsLog
from prunella.training.validate import evaluate_loss

PICTURES = 8
BEST = "best.safetensors"


class Data(NamedTuple):
    """What is learned from and what is held out; `among` and `heldout_among` restrict them to some pairs."""

    train: Latents
    heldout: Latents
    among: np.ndarray | None = None
    heldout_among: np.ndarray | None = None

    @property
    def prompts(self) -> list[str]:
        """A few held-out captions to draw."""
        captions = self.heldout.captions
        chosen = range(len(captions)) if self.heldout_among is None else self.heldout_among
        return [captions[i] for i in chosen][:PICTURES]


class Watch:
    """Measures and draws a model when it is due, into a journal; at step 0 and at the last it always is.

    `decided_by` names the held-out term that says which weights are best; those are kept in the folder `work`.
    `teacher` draws beside the student where there is one.
    """

    def __init__(
        self,
        pipeline,
        loss: Callable[[nn.Module, dict], dict[str, Tensor]],
        data: Data,
        params: Learning,
        journal: MetricsLog,
        work: Path,
        *,
        decided_by: str,
        teacher: nn.Module | None = None,
    ):
        self.pipeline, self.loss, self.data, self.params, self.journal = pipeline, loss, data, params, journal
        self.last = pipeline.scheduler.config.num_train_timesteps
        self.decided_by, self.best = decided_by, work / BEST
        self.teacher, self.taught = teacher, None

    def __call__(self, done: int, ema: EMAModel | None) -> None:
        unet, ends = self.pipeline.unet, done in (0, self.params.steps)
        measured = ends or done % self.params.evaluate_every == 0
        drawn = (ends or done % self.params.picture_every == 0) and self.data.prompts
        if not (measured or drawn):
            return
        with ema_weights(unet, ema), eager():
            if measured:
                self._measure(done, unet)
            if drawn:
                self._draw(done)

    def _measure(self, done: int, unet: nn.Module) -> None:
        batches = heldout_batches(self.data.heldout, self.params.batch_size, self.last, self.data.heldout_among)
        values = evaluate_loss(unet, self.loss, batches, self.params.precision)
        if not values:
            return
        best, value = self.best_of_all(), values[self.decided_by]
        self.journal.metrics(done, "heldout", values)
        # After a resumption the best may be one that is still to come, again: then it is written again.
        if done and math.isfinite(value) and (best is None or done <= best[0] or value < best[1]):
            half = self.best.with_suffix(".half")
            weights = {name: part.detach().to("cpu").contiguous() for name, part in unet.state_dict().items()}
            save_file(weights, half, {"step": str(done), self.decided_by: repr(value)})
            half.replace(self.best)

    def _draw(self, done: int) -> None:
        rows = {f"step {done}": self._pictures()}
        if self.teacher is not None:
            self.taught = self.taught or self._pictures(self.teacher)
            rows = {"teacher": self.taught, **rows}
        self.journal.picture(done, "samples", grid(rows))

    def _pictures(self, unet: nn.Module | None = None) -> list[np.ndarray]:
        own = self.pipeline.unet
        try:
            self.pipeline.unet = unet or own
            with computing(self.pipeline.unet, self.params.precision):
                drawn = draw(
                    self.pipeline,
                    self.data.prompts,
                    steps=10,
                    guidance=3.0,
                    seed=0,
                    batch_size=PICTURES,
                    dtype=torch.float32,
                )
                return list(drawn)
        finally:
            self.pipeline.unet = own

    def best_of_all(self) -> tuple[int, float] | None:
        """The step whose weights measured best, and its value; None where nothing was measured."""
        if not self.best.is_file():
            return None
        with safe_open(self.best, "pt") as file:
            noted = file.metadata()
        return int(noted["step"]), float(noted[self.decided_by])

    def best_weights(self) -> dict[str, Tensor]:
        return load_file(self.best)
