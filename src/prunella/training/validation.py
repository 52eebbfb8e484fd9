"""Held-out values while a student learns, and the weights that measured best."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from prunella.compute import distributed, fsdp
from prunella.compute.compile import disable_compile
from prunella.compute.launch import rank
from prunella.latents.shards import LatentDataset
from prunella.params import DiffusionTraining
from prunella.training import checkpoint
from prunella.training.data import Batch, iter_heldout_batches
from prunella.training.loop import ema_weights
from prunella.training.metrics_log import MetricsLog
from prunella.training.trainable import TrainableState
from prunella.training.validate import evaluate_loss

HELDOUT = "heldout"
BEST, BEST_AT_END = "best", "best-at-end"


class TrainingData(NamedTuple):
    """Training and held-out data; `indices` and `heldout_indices` restrict them to some pairs."""

    train: LatentDataset
    heldout: LatentDataset
    indices: np.ndarray | None = None
    heldout_indices: np.ndarray | None = None
    auxiliary: Mapping[str, LatentDataset] = MappingProxyType({})  # what is learned as well, by kind (`batch.SEEDS`)


class Validation:
    """Measures a model when it is due, into the metrics log; at step 0, the last step and the `phase_ends` it always
    is.

    Among several processes, each measures some batches, and the first writes; of a model that they have parts of each
    measures all, since it takes all of them to put a layer together. `batch_size` pairs go through the model at once.
    `monitor` names the held-out term that says which weights are best; those are kept in folders of `work`, as
    checkpoints are. The best measurement at a last step off the cadence is kept apart: a longer training would not have
    measured there.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Batch], dict[str, Tensor]],
        data: TrainingData,
        params: DiffusionTraining,
        log: MetricsLog,
        work: Path,
        *,
        num_train_timesteps: int,
        monitor: str,
        batch_size: int,
        phase_ends: tuple[int, ...] = (),
    ):
        self.model, self.loss, self.data, self.params, self.log = model, loss, data, params, log
        self.num_train_timesteps, self.monitor, self.work = num_train_timesteps, monitor, work
        self.batch_size, self.extra_steps = batch_size, (0, params.steps, *phase_ends)

    def forget_after(self, step: int) -> None:
        """Forget what was measured after `step`, or at the end of a shorter training off the cadence."""
        self.log.keep_rows(lambda row: row["split"] != HELDOUT or self.is_due(row["step"]))
        checkpoint.remove_checkpoints(self.work / BEST, lambda best: best > step or not self.is_due(best))
        checkpoint.remove_checkpoints(self.work / BEST_AT_END, lambda best: best != self.params.steps or best > step)

    def is_due(self, step: int) -> bool:
        """Whether that step is measured."""
        return step in self.extra_steps or step % self.params.evaluate_every == 0

    def __call__(self, done: int, ema: EMAModel | None) -> None:
        if not self.is_due(done):
            return
        data, params, sharded = self.data, self.params, fsdp.is_fsdp(self.model)
        batches = iter_heldout_batches(
            data.heldout, self.batch_size, self.num_train_timesteps, data.heldout_indices, shared=not sharded
        )
        with ema_weights(self.model, ema), disable_compile():
            values = evaluate_loss(self.model, self.loss, batches, params.precision, not sharded)
            first = rank() == 0
            better = first and bool(values) and self._log_values(done, values)
            if distributed.broadcast_from_main(lambda: better) if sharded else better:
                weights = fsdp.full_state_dict(TrainableState(self.model).state_dict(), retain=first)
                if first:
                    self._save_best(done, weights)

    def _log_values(self, done: int, values: dict[str, float]) -> bool:
        """Write the values down; whether the weights that gave them are to be kept."""
        best, value = self.find_best(), values[self.monitor]
        self.log.log_metrics(done, HELDOUT, values)
        return bool(done) and math.isfinite(value) and (best is None or value < best[1])

    def _save_best(self, done: int, weights_by_name: dict[str, Tensor]) -> None:
        folder = BEST if done % self.params.evaluate_every == 0 else BEST_AT_END
        weights = {name: part.detach().to("cpu").contiguous() for name, part in weights_by_name.items()}
        checkpoint.save(self.work / folder, done, weights, keep=1)

    def patience_exceeded(self) -> bool:
        """Whether `patience` measurements in a row have been no better than the best; never where it is None."""
        best, patience = self.find_best(), self.params.patience
        later = [row for row in self.log.rows(HELDOUT) if best and row["step"] > best[0]]
        return patience is not None and len(later) >= patience

    def find_best(self) -> tuple[int, float] | None:
        """The step whose weights measured best, and its value; None where nothing was measured."""
        rows = [row for row in self.log.rows(HELDOUT) if row.get(self.monitor) is not None]
        values: dict[int, float] = {row["step"]: row[self.monitor] for row in rows}
        steps = [checkpoint.newest_step(self.work / name) for name in (BEST, BEST_AT_END)]
        found = [(step, values[step]) for step in steps if step and step in values]
        return min(found, key=lambda each: each[1]) if found else None

    def load_best_weights(self) -> dict[str, Tensor]:
        """Those of `best()`, on the CPU."""
        step, _ = self.find_best() or (0, 0.0)
        name = BEST if checkpoint.newest_step(self.work / BEST) == step else BEST_AT_END
        return checkpoint.load(self.work / name) or {}
