"""An observer of trainings: says what is coming, mirrors the numbers, draws pictures beside the teacher's."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import nn

from prunella.compute.compile import eager
from prunella.compute.distributed import dealt, gathered
from prunella.compute.launch import rank, size
from prunella.compute.precision import computing
from prunella.models.pipeline import load_pipeline
from prunella.params import Watch
from prunella.reporting.image_grid import grid
from prunella.sampling.generate import draw
from prunella.tracking.training_estimate import FIRST, TrainingEstimate
from prunella.training.loop import ema_weights
from prunella.training.metrics_log import MetricsLog
from prunella.training.trainer import METRICS, SECONDS, TrainingJob
from prunella.training.validation import Data

SAMPLES = "samples"
BATCH = 8  # pictures drawn at once


class Tracker(Protocol):
    """Where numbers and pictures are shown, such as MLflow's run of the stage."""

    def metrics(self, step: int, values: dict[str, float]) -> None: ...
    def picture(self, step: int, name: str, image: Image.Image) -> None: ...


class NullTracker:
    """Shows nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Nothing."""


class TrainingWatch:
    """A `prunella.training.callback.Observer`, as section `watch` of the parameters asks for."""

    def __init__(self, settings: Watch, tracker: Tracker):
        self.settings, self.tracker = settings, tracker

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.tracker.metrics(step, values)

    @contextmanager
    def watching(
        self, job: TrainingJob, work: Path, resumed: int, processes: int
    ) -> Iterator[Callable[[int, EMAModel | None], None]]:
        estimate = _estimate(job, processes)
        if rank() == 0:
            self.metrics(0, {f"outlook/{name}": value for name, value in estimate.say().items()})
        pictures = Pictures(job, self.settings, work, self.tracker)

        def look(done: int, ema: EMAModel | None) -> None:
            # What a short training begins with, the stage before has shown.
            first = done == 0 and job.params.steps >= self.settings.picture_every
            if first or done == job.params.steps or (done and done % self.settings.picture_every == 0):
                pictures(done, ema)
            if rank() == 0 and done == resumed + FIRST < job.params.steps:
                rows = MetricsLog(work / METRICS).rows("train")[-FIRST:]
                estimate.say_time_left([row[SECONDS] for row in rows], done)

        with estimate.memory_said():
            yield look


class Pictures:
    """Draws the student, and the teacher where there is one, into `work`/samples/STEP.png.

    Of several processes each draws some of the pictures, and the first keeps and shows them.
    """

    def __init__(self, job: TrainingJob, settings: Watch, work: Path, tracker: Tracker):
        self.job, self.settings, self.work, self.tracker = job, settings, work, tracker
        self.prompts = settings.prompts if isinstance(settings.prompts, list) else captions(job.data, settings.prompts)
        self.teachers: list[np.ndarray] | None = None

    def __call__(self, done: int, ema: EMAModel | None) -> None:
        if not self.prompts:
            return
        # VAE and text encoders are there while drawing alone, so that they take no memory from the training.
        pipeline = load_pipeline(self.job.student, self.job.placement.device, unet=None, **self.job.encoders)
        with ema_weights(self.job.model, ema), eager():
            rows = {f"step {done}": self._drawn(pipeline, self.job.unet)}
            if self.job.teacher is not None:
                self.teachers = self.teachers or self._drawn(pipeline, self.job.teacher)
                rows = {"teacher": self.teachers, **rows}
        if rank():
            return
        sheet, path = grid(rows), self.work / SAMPLES / f"{done}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        self.tracker.picture(done, SAMPLES, sheet)

    def _drawn(self, pipeline: DiffusionPipeline, unet: nn.Module) -> list[np.ndarray]:
        pipeline.unet = unet
        with computing(unet, self.job.params.precision):
            if self.job.placement.fsdp:  # a layer is put together by all, so all draw the same
                return self._some(pipeline, range(len(self.prompts)))
            shares = [self._some(pipeline, numbers) for numbers in dealt(shares_of(len(self.prompts), size()))]
        return [picture for share in gathered(shares) for picture in share]

    def _some(self, pipeline: DiffusionPipeline, numbers: range) -> list[np.ndarray]:
        settings = self.settings
        drawn = draw(
            pipeline,
            [self.prompts[number] for number in numbers],
            steps=settings.steps,
            guidance=settings.guidance,
            seed=0,
            batch_size=BATCH,
            first=numbers.start,
            dtype=torch.float32,
            negative_prompt=settings.negative_prompt,
            size=settings.size,
        )
        return list(drawn)


def shares_of(count: int, processes: int) -> list[range]:
    """The numbers below `count` in as many parts in line, one for each process, the longer ones first."""
    least, more = divmod(count, processes)
    starts = [least * number + min(number, more) for number in range(processes + 1)]
    return [range(*ends) for ends in pairwise(starts)]


def captions(data: Data, count: int) -> list[str]:
    """The first `count` held-out captions that are trained for."""
    every = data.heldout.captions
    chosen = range(len(every)) if data.heldout_among is None else data.heldout_among
    return [every[i] for i in chosen][:count]


def _estimate(job: TrainingJob, processes: int) -> TrainingEstimate:
    pairs = len(job.data.train) if job.data.among is None else len(job.data.among)
    at_once = job.examples_at_once(processes)
    return TrainingEstimate(job.title, job.subject(processes), job.params, at_once, pairs, job.unet.device)
