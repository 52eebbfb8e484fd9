"""Score: drawn pictures by the metrics of the benchmark, and UNets by their output error."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from prunella.data.manifest import read_manifest
from prunella.evaluation.gallery.shards import Gallery
from prunella.evaluation.metrics import check_metrics, find_metric
from prunella.evaluation.metrics.base import Metric, Subject, Unavailable, figures
from prunella.evaluation.scores.output_error import output_errors, predict
from prunella.evaluation.stats import mean, paired_difference
from prunella.latents.encoders import open_latents
from prunella.latents.shards import Latents
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.params import Benchmark
from prunella.training.batch import heldout_batches

Report = dict[str, Any]


def score_teacher(
    params: Benchmark, *, teacher: Path, latents: Path, manifest: Path, drawn: Path, predictions: Path, device: str
) -> Report:
    """Scores of the teacher's gallery `drawn`, under {"models": {"teacher": …}}; its predictions into `predictions`.

    "floors" has what real pictures get, by metric, and "unavailable" the metrics that cannot be measured, with why.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher, device)[1], load_scheduler(teacher)
    batches = heldout_batches(heldout, params.batch_size, scheduler.config.num_train_timesteps)
    pairs = predict(load_unet(teacher, device), scheduler, batches, predictions)
    scores = _Scores(params, teacher, heldout, manifest, drawn, device)
    entry = {"output_error": 0.0, "output_error_estimate": mean([0.0] * pairs).rounded(), **scores.of(drawn)}
    return {"models": {"teacher": entry}, "floors": scores.floors, "unavailable": scores.unavailable}


def score_student(
    params: Benchmark,
    *,
    student: str,
    models: dict[str, Path],
    teacher: Path,
    latents: Path,
    manifest: Path,
    drawn: Path,
    predictions: Path,
    device: str,
) -> Report:
    """Scores of a student at every stage: `models` are its folders by stage, `drawn` holds its galleries.

    {"models": {"STUDENT/STAGE": …}, "differences": {"STUDENT/STAGE - STUDENT/STAGE": …}, "pairs": …}: differences of a
    stage from the one before are paired, held-out pair by pair; "pairs" has every pair's output error.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher, device)[1], load_scheduler(teacher)
    scores = _Scores(params, teacher, heldout, manifest, drawn / next(iter(models)), device)
    entries, errors = {}, {}
    for stage, folder in models.items():
        batches = heldout_batches(heldout, params.batch_size, scheduler.config.num_train_timesteps)
        name = f"{student}/{stage}"
        errors[name] = output_errors(load_unet(folder, device), scheduler, batches, predictions)
        estimate = mean(errors[name])
        entries[name] = {"output_error": estimate.value, "output_error_estimate": estimate.rounded()}
        entries[name] |= scores.of(drawn / stage)
    differences = {
        f"{after} - {before}": {"output_error": paired_difference(errors[after], errors[before]).rounded()}
        for before, after in pairwise(errors)
    }
    pairs = {name: {"output_error": [float(f"{error:.6g}") for error in each]} for name, each in errors.items()}
    return {"models": entries, "differences": differences, "unavailable": scores.unavailable, "pairs": pairs}


class _Scores:
    """Measures galleries by every metric asked for; what they share is loaded once."""

    def __init__(self, params: Benchmark, teacher: Path, heldout: Latents, manifest: Path, drawn: Path, device: str):
        self.params = params
        self.unavailable: dict[str, str] = {}
        pairs = np.array([prompt.pair for prompt in Gallery(drawn).prompts], int)
        source = read_manifest(manifest)[0]
        self.subject = Subject(teacher, heldout, pairs, source, device, params.batch_size)

    def of(self, folder: Path) -> dict[str, dict]:
        """{metric: estimate, …} of the gallery in `folder`."""
        metrics = self._metrics()
        for prompts, images in Gallery(folder).batches(self.params.batch_size):
            for metric in metrics.values():
                metric.update(images, [prompt.text for prompt in prompts])
        found: dict[str, dict] = {}
        for name, metric in metrics.items():
            try:
                found |= figures(name, metric)
            except Unavailable as reason:
                self.unavailable[name] = str(reason)
        return found

    @property
    def floors(self) -> dict[str, dict]:
        """{metric: estimate} of real pictures, for the metrics that know it."""
        known = {name: metric.floor() for name, metric in self._metrics().items()}
        return {name: floor.rounded() for name, floor in known.items() if floor is not None}

    def _metrics(self) -> dict[str, Metric]:
        """A fresh one of each."""
        metrics: dict[str, Metric] = {}
        for name in self.params.metrics:
            try:
                metrics[name] = find_metric(name).build(self.subject)
            except Unavailable as reason:
                self.unavailable[name] = str(reason)
        return metrics
