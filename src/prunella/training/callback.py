"""Hooks of a training: it is told the numbers, says what is coming, draws; it decides nothing about the result."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffusers.training_utils import EMAModel

if TYPE_CHECKING:
    from prunella.training.trainer import TrainingJob

# Called with the steps done, after what they gave is written down; of several processes in each, together.
StepHook = Callable[[int, EMAModel | None], None]


class TrainingCallback(Protocol):
    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Told of every row of the metrics log, names as "split/name"."""

    def around_training(
        self, job: "TrainingJob", work: Path, resumed: int, processes: int
    ) -> AbstractContextManager[StepHook]:
        """Around a training that goes on from step `resumed`. It may turn what is raised inside into a better error."""


class NoCallback:
    """Nobody watches."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def around_training(
        self, job: "TrainingJob", work: Path, resumed: int, processes: int
    ) -> AbstractContextManager[StepHook]:
        return nullcontext(lambda done, ema: None)
