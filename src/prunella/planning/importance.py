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
from prunella.compute.precision import autocast, rounding
from prunella.params import Precision
from prunella.planning.units import Layer, Unit, planned
from prunella.pruning.plan import Plan
from prunella.pruning.prune import prune
from prunella.storage.files import atomic_write_text, json_digest, read_json
from prunella.training.data import Batch
from prunella.training.losses import Task, squares

BINS = 4  # of timesteps, equally wide
DIGITS = 9  # that are kept of an error


class Error(NamedTuple):
    """Mean over all pairs, and by bin of timesteps from the least noise on (None: no pair is there)."""

    mean: float
    by_timestep: tuple[float | None, ...]


class OutputError:
    """Measures students of one teacher on the same batches, each pair with its own noise and timestep."""

    def __init__(
        self,
        teacher: UNet2DConditionModel,
        family: str,
        scheduler: DDPMScheduler,
        batches: Iterable[Batch],
        work: Path,
        precision: Precision = "fp32",
    ):
        self.teacher, self.family, self.work, self.precision = teacher.eval(), family, work, precision
        self.task, self.last = Task(scheduler), scheduler.config.num_train_timesteps
        self.batches = [Batch(batch).to(teacher.device) for batch in batches]
        self.timesteps = torch.cat([batch["timesteps"] for batch in self.batches]).tolist()
        self.taught: list[Tensor] = []

    def lacking(self, units: Sequence[Unit]) -> Error:
        """Of the student that lacks these units. Layers alone are passed over in the teacher, at no cost of a model."""
        if units and all(isinstance(unit, Layer) for unit in units):
            self.teach()  # while it is whole
            with passed_over(self.teacher, [unit for unit in units if isinstance(unit, Layer)]) as student:
                return self._kept([unit.name for unit in units], lambda: student)
        return self.of(planned(self.family, units))

    def of(self, plan: Plan) -> Error:
        """Of the student of a plan, whose weights are the teacher's own tensors."""
        identity = plan.model_dump(include={"down", "mid", "up", "layers"})
        return self._kept(identity, lambda: prune(self.teacher, plan, shared=True))

    def teach(self) -> int:
        """Let the teacher predict, which it does once; the number of pairs."""
        if not self.taught:
            self.taught = list(self._predicted(self.teacher))
        return sum(len(each) for each in self.taught)

    def all(self, every: Sequence[Sequence[Unit]]) -> list[Error]:
        """Of students by the units that each lacks, this process measuring its share of them first."""
        for lacking in distributed.dealt(every):
            self.lacking(lacking)
        distributed.team(self.teacher.device).wait_for_everyone()
        return [self.lacking(lacking) for lacking in every]

    def once(self, plan: Plan) -> Error:
        """As `of`, but nothing is kept."""
        return self.trained(prune(self.teacher, plan, shared=True))

    def trained(self, student: nn.Module) -> Error:
        """Of a student with weights of its own: nothing is kept."""
        return self._summed(self.errors(student))

    def _kept(self, identity: object, student: Callable[[], nn.Module]) -> Error:
        path = self.work / f"{json_digest(identity)}.json"
        if not path.is_file():
            atomic_write_text(path, str(self.errors(student())))
        return self._summed(read_json(path))

    @torch.no_grad()
    def errors(self, student: nn.Module) -> list[float]:
        """Pair by pair."""
        self.teach()
        pairs = zip(self._predicted(student), self.taught, strict=True)
        errors = [error for ours, theirs in pairs for error in squares(ours, theirs).tolist()]
        return [float(f"{error:.{DIGITS}g}") for error in errors]

    @torch.no_grad()
    def _predicted(self, unet: nn.Module) -> Iterator[Tensor]:
        for batch in self.batches:
            with rounding(self.precision), autocast(self.teacher.device, self.precision):
                yield self.task.predict(unet, batch).float()

    def _summed(self, errors: list[float]) -> Error:
        found: list[list[float]] = [[] for _ in range(BINS)]
        for timestep, error in zip(self.timesteps, errors, strict=True):
            found[BINS * timestep // self.last].append(error)
        return Error(_mean(errors), tuple(_mean(each) if each else None for each in found))


def _mean(values: list[float]) -> float:
    return float(f"{sum(values) / len(values):.{DIGITS}g}")


@contextmanager
def passed_over(unet: UNet2DConditionModel, layers: Iterable[Layer]) -> Iterator[UNet2DConditionModel]:
    """Inside, the UNet computes without these transformer layers."""
    whole: dict[str, nn.ModuleList] = {}
    gone: dict[str, set[int]] = {}
    for attention, layer in layers:
        gone.setdefault(attention, set()).add(layer)
    try:
        for attention, numbers in gone.items():
            module = unet.get_submodule(attention)
            whole[attention] = module.transformer_blocks
            left = [block for number, block in enumerate(module.transformer_blocks) if number not in numbers]
            module.transformer_blocks = nn.ModuleList(left)
        yield unet
    finally:
        for attention, blocks in whole.items():
            unet.get_submodule(attention).transformer_blocks = blocks
