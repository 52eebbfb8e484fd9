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

from prunella.compute.compile import disable_compile
from prunella.compute.distributed import all_gather_ordered, shard_for_rank
from prunella.compute.launch import rank, world_size
from prunella.compute.precision import model_precision
from prunella.models.pipeline import load_pipeline
from prunella.params import Monitoring
from prunella.reporting.image_grid import render_grid
from prunella.sampling.generate import generate
from prunella.tracking.training_estimate import ETA_AFTER_STEPS, TrainingEstimate
from prunella.training.loop import ema_weights
from prunella.training.metrics_log import MetricsLog
from prunella.training.trainer import METRICS, STEP_SECONDS, TrainingJob
from prunella.training.validation import TrainingData

SAMPLES_NAME = "samples"
BATCH_SIZE = 8  # pictures drawn at once


class Tracker(Protocol):
    """The place where numbers and pictures are shown, such as MLflow's run of the stage."""

    def log_metrics(self, step: int, values: dict[str, float]) -> None: ...
    def log_image(self, step: int, name: str, image: Image.Image) -> None: ...


class NullTracker:
    """Shows nothing."""

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        """Nothing."""


class TrackingCallback:
    """A `prunella.training.callback.TrainingCallback`, as section `watch` of the parameters asks for."""

    def __init__(self, settings: Monitoring, tracker: Tracker):
        self.settings, self.tracker = settings, tracker

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.tracker.log_metrics(step, values)

    @contextmanager
    def around_training(
        self, job: TrainingJob, work: Path, resumed: int, processes: int
    ) -> Iterator[Callable[[int, EMAModel | None], None]]:
        estimate = _make_estimate(job, processes)
        if rank() == 0:
            self.metrics(0, {f"outlook/{name}": value for name, value in estimate.print_summary().items()})
        sample_images = SampleImages(job, self.settings, work, self.tracker)

        def step_hook(done: int, ema: EMAModel | None) -> None:
            # What a short training begins with, the stage before has shown.
            at_start = done == 0 and job.params.steps >= self.settings.image_every
            if at_start or done == job.params.steps or (done and done % self.settings.image_every == 0):
                sample_images(done, ema)
            if rank() == 0 and done == resumed + ETA_AFTER_STEPS < job.params.steps:
                rows = MetricsLog(work / METRICS).rows("train")[-ETA_AFTER_STEPS:]
                estimate.print_eta([row[STEP_SECONDS] for row in rows], done)

        with estimate.explain_oom():
            yield step_hook


class SampleImages:
    """Draws the student, and the teacher where there is one, into `work`/samples/STEP.png.

    Among several processes, each draws some of the pictures, and the first keeps and shows them.
    """

    def __init__(self, job: TrainingJob, settings: Monitoring, work: Path, tracker: Tracker):
        self.job, self.settings, self.work, self.tracker = job, settings, work, tracker
        self.prompts = (
            settings.prompts
            if isinstance(settings.prompts, list)
            else select_heldout_captions(job.data, settings.prompts)
        )
        self.teacher_images: list[np.ndarray] | None = None

    def __call__(self, done: int, ema: EMAModel | None) -> None:
        if not self.prompts:
            return
        # VAE and text encoders are there while drawing alone, so that they take no memory from the training.
        pipeline = load_pipeline(self.job.student, self.job.placement.device, unet=None, **self.job.text_encoders)
        with ema_weights(self.job.model, ema), disable_compile():
            rows = {f"step {done}": self._generate_images(pipeline, self.job.unet)}
            if self.job.teacher is not None:
                self.teacher_images = self.teacher_images or self._generate_images(pipeline, self.job.teacher)
                rows = {"teacher": self.teacher_images, **rows}
        if rank():
            return
        sheet, path = render_grid(rows), self.work / SAMPLES_NAME / f"{done}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
        self.tracker.log_image(done, SAMPLES_NAME, sheet)

    def _generate_images(self, pipeline: DiffusionPipeline, unet: nn.Module) -> list[np.ndarray]:
        pipeline.unet = unet
        with model_precision(unet, self.job.params.precision):
            if self.job.placement.fsdp:  # a layer is put together by all, so all draw the same
                return self._generate_subset(pipeline, range(len(self.prompts)))
            chunks = [
                self._generate_subset(pipeline, indices)
                for indices in shard_for_rank(split_evenly(len(self.prompts), world_size()))
            ]
        return [image for chunk in all_gather_ordered(chunks) for image in chunk]

    def _generate_subset(self, pipeline: DiffusionPipeline, indices: range) -> list[np.ndarray]:
        settings = self.settings
        images = generate(
            pipeline,
            [self.prompts[index] for index in indices],
            steps=settings.num_inference_steps,
            guidance=settings.guidance_scale,
            seed=0,
            batch_size=BATCH_SIZE,
            first_noise_id=indices.start,
            dtype=torch.float32,
            negative_prompt=settings.negative_prompt,
            size=settings.size,
        )
        return list(images)


def split_evenly(count: int, processes: int) -> list[range]:
    """The numbers below `count` in as many parts in line, one for each process, the longer ones first."""
    base_size, remainder = divmod(count, processes)
    starts = [base_size * process + min(process, remainder) for process in range(processes + 1)]
    return [range(*ends) for ends in pairwise(starts)]


def select_heldout_captions(data: TrainingData, count: int) -> list[str]:
    """The first `count` held-out captions that are trained for."""
    heldout_captions = data.heldout.captions
    indices = range(len(heldout_captions)) if data.heldout_indices is None else data.heldout_indices
    return [heldout_captions[i] for i in indices][:count]


def _make_estimate(job: TrainingJob, processes: int) -> TrainingEstimate:
    num_samples = len(job.data.train) if job.data.indices is None else len(job.data.indices)
    micro_batch = job.choose_micro_batch(processes)
    return TrainingEstimate(
        job.title, job.memory_spec(processes), job.params, micro_batch, num_samples, job.unet.device
    )
