"""What is coming: images to see, memory, time; and, when memory runs out, which knob buys how much."""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from tqdm import tqdm

from prunella.errors import UserError
from prunella.params import Distill, Finetune, Learning
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan
from prunella.training.memory_estimate import GB, PLANNED, Example, Subject, advice, knobs, memory_of, needed

FIRST = 10  # steps until it is known how long one takes


def subject_of(
    plan: Plan, teacher: dict, example: Example, settings: Learning, *, processes: int = 1, gpu: bool
) -> Subject:
    """What a training of the plan's student takes memory for: beside the `teacher` (its UNet's config) if it distils.

    `example` holds the shapes of one example, as the teacher's family gives them.
    """
    student = student_config(plan, teacher)
    if not isinstance(settings, Distill):
        passes = 1 + len(settings.preserved) if isinstance(settings, Finetune) else 1
        return Subject(student, None, example, processes, gpu, passes=passes)
    hooked = tuple(pair.student for pair in feature_pairs(plan, settings.features, teacher))
    return Subject(student, teacher, example, processes, gpu, hooked)


class TrainingEstimate(NamedTuple):
    """A training that is to come: of what, by which parameters, `at_once` examples in a pass, on how many `pairs`.

    None where that is not known yet: of a set that is not encoded, or of captions that hold certain words.
    """

    title: str
    subject: Subject
    params: Learning
    at_once: int
    pairs: int | None
    device: torch.device

    def say(self) -> dict[str, float]:
        """Print what is coming, with what would help where memory will hardly do; the same as figures."""
        images = self.params.steps * self.params.batch_size * self.params.accumulation
        team = self.subject.processes
        need, whole = needed(self.subject, self.params, self.at_once), memory_of(self.device, team)
        parts = {name: size / GB for name, size in need._asdict().items() if size}
        each = f", {images / self.pairs:.1f} times each of {self.pairs} pairs" if self.pairs else ""
        print(
            f"{self.title}: {images} images in {self.params.steps} steps{each}; {self.at_once} at once; "
            f"memory: about {need.total / GB:.2f} GB"
            + (f" for each of {team} processes" if team > 1 else "")
            + f" ({', '.join(f'{name} {size:.2f}' for name, size in parts.items())}) of {whole / GB:.1f} GB",
            flush=True,
        )
        if need.total > PLANNED * whole:
            print(f"{self.title}: that will hardly fit: {self._advice()}", flush=True)
        figures = {"images": images} | ({"epochs": images / self.pairs} if self.pairs else {})
        memory = {**parts, "needed": need.total / GB, "there": whole / GB}
        return figures | {f"memory_gb.{name}": size for name, size in memory.items()}

    def say_time_left(self, seconds: list[float], done: int) -> None:
        """Print what the first steps, which took `seconds`, say about those that are left."""
        step = statistics.median(seconds)
        left = timedelta(seconds=round(step * (self.params.steps - done)))
        tqdm.write(f"{self.title}: {step:.2f} s a step, {left} left without measuring and drawing", file=sys.stderr)

    @contextmanager
    def memory_said(self) -> Iterator[None]:
        """Turns running out of memory into a UserError that says what would help."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise UserError(f"out of memory: {str(error).splitlines()[0]}\n{self._advice()}") from error

    def _advice(self) -> str:
        return advice(knobs(self.subject, self.params, self.at_once))
