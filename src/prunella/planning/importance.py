"""How much a student errs that lacks some units, before any training: mean squared difference from the teacher.

A unit's importance is the error of the stock student that lacks it alone, and the prediction for a student that lacks
several is their sum (LAPTOP-Diff, arXiv 2404.11098). Every error is kept as soon as it is known, in a file of its own,
so that what was interrupted goes on, and several processes share the work.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from prunella.compute import distributed
from prunella.compute.precision import autocast, tf32_context
from prunella.params import Precision
from prunella.planning.units import DropLayer, Unit, plan_without
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import atomic_write_text, json_digest, read_json
from prunella.training.data import Batch
from prunella.training.losses import DiffusionLoss, per_sample_mse

NUM_TIMESTEP_BINS = 4  # of timesteps, equally wide
ERROR_DIGITS = 9  # that are kept of an error


class ErrorStats(NamedTuple):
    """Mean over all pairs, and by bin of timesteps from the least noise on (None: no pair is there)."""

    mean: float
    by_timestep: tuple[float | None, ...]


class OutputError:
    """Measures students of one teacher on the same batches, each pair with its own noise and timestep."""

    def __init__(
        self,
        teacher_unet: UNet2DConditionModel,
        family: str,
        scheduler: DDPMScheduler,
        batches: Iterable[Batch],
        work_dir: Path,
        precision: Precision = "fp32",
    ):
        self.teacher_unet, self.family, self.work_dir, self.precision = teacher_unet.eval(), family, work_dir, precision
        self.diffusion_loss, self.num_train_timesteps = DiffusionLoss(scheduler), scheduler.config.num_train_timesteps
        self.batches = [Batch(batch).to(teacher_unet.device) for batch in batches]
        self.timesteps = torch.cat([batch["timesteps"] for batch in self.batches]).tolist()
        self.teacher_outputs: list[Tensor] = []

    def error_without(self, units: Sequence[Unit]) -> ErrorStats:
        """For the student that lacks these units. Layers alone are passed over in the teacher, at no cost of a
        model."""
        if units and all(isinstance(unit, DropLayer) for unit in units):
            self.cache_teacher_outputs()  # while it is whole
            with bypass_layers(self.teacher_unet, [unit for unit in units if isinstance(unit, DropLayer)]) as student:
                return self._load_or_measure([unit.name for unit in units], lambda: student)
        return self.error_of_plan(plan_without(self.family, units))

    def error_of_plan(self, plan: Plan) -> ErrorStats:
        """For the student of a plan, whose weights are the teacher's own tensors."""
        identity = plan.model_dump(include={"down", "mid", "up", "layers"})
        return self._load_or_measure(identity, lambda: prune(self.teacher_unet, plan, shared=True))

    def cache_teacher_outputs(self) -> int:
        """Let the teacher predict, which it does once; the number of pairs."""
        if not self.teacher_outputs:
            self.teacher_outputs = list(self._predict_batches(self.teacher_unet))
        return sum(len(output) for output in self.teacher_outputs)

    def measure_many(self, unit_sets: Sequence[Sequence[Unit]]) -> list[ErrorStats]:
        """For students by the units that each lacks, this process measuring its share of them first."""
        for removed_units in distributed.shard_for_rank(unit_sets):
            self.error_without(removed_units)
        distributed.get_accelerator(self.teacher_unet.device).wait_for_everyone()
        return [self.error_without(removed_units) for removed_units in unit_sets]

    def measure_uncached(self, plan: Plan) -> ErrorStats:
        """Like `error_of_plan`, but nothing is kept."""
        return self.measure_student(prune(self.teacher_unet, plan, shared=True))

    def measure_student(self, student: nn.Module) -> ErrorStats:
        """For a student with weights of its own: nothing is kept."""
        return self._summarize(self.per_sample_errors(student))

    def _load_or_measure(self, identity: object, make_student: Callable[[], nn.Module]) -> ErrorStats:
        path = self.work_dir / f"{json_digest(identity)}.json"
        if not path.is_file():
            atomic_write_text(path, str(self.per_sample_errors(make_student())))
        return self._summarize(read_json(path))

    @torch.no_grad()
    def per_sample_errors(self, student: nn.Module) -> list[float]:
        """Pair by pair."""
        self.cache_teacher_outputs()
        output_pairs = zip(self._predict_batches(student), self.teacher_outputs, strict=True)
        errors = [
            error
            for student_output, teacher_output in output_pairs
            for error in per_sample_mse(student_output, teacher_output).tolist()
        ]
        return [float(f"{error:.{ERROR_DIGITS}g}") for error in errors]

    @torch.no_grad()
    def _predict_batches(self, unet: nn.Module) -> Iterator[Tensor]:
        for batch in self.batches:
            with tf32_context(self.precision), autocast(self.teacher_unet.device, self.precision):
                yield self.diffusion_loss.predict(unet, batch).float()

    def _summarize(self, errors: list[float]) -> ErrorStats:
        errors_by_bin: list[list[float]] = [[] for _ in range(NUM_TIMESTEP_BINS)]
        for timestep, error in zip(self.timesteps, errors, strict=True):
            errors_by_bin[NUM_TIMESTEP_BINS * timestep // self.num_train_timesteps].append(error)
        return ErrorStats(
            _mean(errors), tuple(_mean(bin_errors) if bin_errors else None for bin_errors in errors_by_bin)
        )


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.{ERROR_DIGITS}g}")


@contextmanager
def bypass_layers(unet: UNet2DConditionModel, layers: Iterable[DropLayer]) -> Iterator[UNet2DConditionModel]:
    """Inside, the UNet computes without these transformer layers."""
    original_blocks: dict[str, nn.ModuleList] = {}
    removed_by_attention: dict[str, set[int]] = {}
    for attention, layer in layers:
        removed_by_attention.setdefault(attention, set()).add(layer)
    try:
        for attention, numbers in removed_by_attention.items():
            module = unet.get_submodule(attention)
            original_blocks[attention] = module.transformer_blocks
            remaining = [block for number, block in enumerate(module.transformer_blocks) if number not in numbers]
            module.transformer_blocks = nn.ModuleList(remaining)
        yield unet
    finally:
        for attention, blocks in original_blocks.items():
            unet.get_submodule(attention).transformer_blocks = blocks
