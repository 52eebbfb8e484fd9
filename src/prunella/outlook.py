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
from prunella.params import Learning
from prunella.training.memory import GB, Subject, advice, knobs, needed, there

FIRST = 10  # steps until it is known how long one takes


class Outlook(NamedTuple):
    """A training that is to come: of what, by which parameters, on how many `pairs`, on which device."""

    title: str
    subject: Subject
    params: Learning
    pairs: int
    device: torch.device

    def figures(self) -> dict[str, float]:
        """Images to see, times each pair is seen, GB of memory that each process needs, GB that are there."""
        images = self.params.steps * self.params.batch_size * self.params.accumulation
        need = needed(self.subject, self.params)
        return {
            "images": images,
            "epochs": images / self.pairs,
            **{f"memory_gb.{name}": size / GB for name, size in need._asdict().items()},
            "memory_gb.needed": need.total / GB,
            "memory_gb.there": there(self.device) / GB,
        }

    def say(self) -> dict[str, float]:
        """Print it, with what would help where memory will hardly do; its figures."""
        it = self.figures()
        team = self.subject.processes
        each = f" for each of {team} processes" if team > 1 else ""
        parts = ", ".join(
            f"{name.removeprefix('memory_gb.')} {value:.2f}"
            for name, value in it.items()
            if name.startswith("memory_gb.") and value and name not in ("memory_gb.needed", "memory_gb.there")
        )
        print(
            f"{self.title}: {it['images']} images in {self.params.steps} steps, {it['epochs']:.1f} times each of "
            f"{self.pairs} pairs; memory: about {it['memory_gb.needed']:.2f} GB{each} ({parts}) "
            f"of {it['memory_gb.there']:.1f} GB",
            flush=True,
        )
        sharing = 1 if self.subject.gpu else team
        if it["memory_gb.needed"] * sharing > it["memory_gb.there"]:
            print(f"{self.title}: that will hardly fit: {self._advice()}", flush=True)
        return it

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
        return advice(knobs(self.subject, self.params))
