"""The estimate of a training: images to see, memory, time; and, when memory runs out, which knob buys how much."""

import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
from tqdm import tqdm

from prunella.errors import UserError
from prunella.params import DiffusionTraining, Distill, Finetune
from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan
from prunella.training.memory_estimate import (
    GB,
    USABLE_FRACTION,
    Example,
    MemorySpec,
    estimate_memory,
    format_savers,
    memory_per_process,
    memory_savers,
)

ETA_AFTER_STEPS = 10  # steps until it is known how long one takes


def make_memory_spec(
    plan: Plan, teacher_config: dict, example: Example, settings: DiffusionTraining, *, processes: int = 1, gpu: bool
) -> MemorySpec:
    """The memory of a training of the plan's student: beside the `teacher_config` (its UNet's config) if it
    distils.

    `example` holds the shapes of one example, as the teacher's family gives them.
    """
    student = student_config(plan, teacher_config)
    if not isinstance(settings, Distill):
        passes = 1 + len(settings.auxiliary_weights) if isinstance(settings, Finetune) else 1
        return MemorySpec(student, None, example, processes, gpu, passes=passes)
    hooked_modules = tuple(pair.student for pair in feature_pairs(plan, settings.features, teacher_config))
    return MemorySpec(student, teacher_config, example, processes, gpu, hooked_modules)


class TrainingEstimate(NamedTuple):
    """A training that is to come: of what, by which parameters, `micro_batch` examples in a pass, on how many
    `num_samples`.

    None where that is not known yet: of a set that is not encoded, or of captions that hold certain words.
    """

    title: str
    memory_spec: MemorySpec
    params: DiffusionTraining
    micro_batch: int
    num_samples: int | None
    device: torch.device

    def print_summary(self) -> dict[str, float]:
        """Print what is coming, with what would help where memory will hardly do; the same as figures."""
        num_images = self.params.steps * self.params.batch_size * self.params.gradient_accumulation_steps
        processes = self.memory_spec.processes
        estimate, device_memory = (
            estimate_memory(self.memory_spec, self.params, self.micro_batch),
            memory_per_process(self.device, processes),
        )
        breakdown_gb = {name: size / GB for name, size in estimate._asdict().items() if size}
        epochs_text = (
            f", {num_images / self.num_samples:.1f} times each of {self.num_samples} pairs" if self.num_samples else ""
        )
        print(
            f"{self.title}: {num_images} images in {self.params.steps} steps{epochs_text}; {self.micro_batch} at once; "
            f"memory: about {estimate.total / GB:.2f} GB"
            + (f" for each of {processes} processes" if processes > 1 else "")
            + f" ({', '.join(f'{name} {size:.2f}' for name, size in breakdown_gb.items())}) of "
            f"{device_memory / GB:.1f} GB",
            flush=True,
        )
        if estimate.total > USABLE_FRACTION * device_memory:
            print(f"{self.title}: that will hardly fit: {self._format_advice()}", flush=True)
        figures = {"images": num_images} | ({"epochs": num_images / self.num_samples} if self.num_samples else {})
        memory_gb = {**breakdown_gb, "needed": estimate.total / GB, "there": device_memory / GB}
        return figures | {f"memory_gb.{name}": size for name, size in memory_gb.items()}

    def print_eta(self, seconds: list[float], done: int) -> None:
        """Print what the first steps, which took `seconds`, say about those that are left."""
        step_seconds = statistics.median(seconds)
        remaining = timedelta(seconds=round(step_seconds * (self.params.steps - done)))
        tqdm.write(
            f"{self.title}: {step_seconds:.2f} s a step, {remaining} left without measuring and drawing",
            file=sys.stderr,
        )

    @contextmanager
    def explain_oom(self) -> Iterator[None]:
        """Turns running out of memory into a UserError that says what would help."""
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                raise
            raise UserError(f"out of memory: {str(error).splitlines()[0]}\n{self._format_advice()}") from error

    def _format_advice(self) -> str:
        return format_savers(memory_savers(self.memory_spec, self.params, self.micro_batch))
