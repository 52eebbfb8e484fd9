"""Score: drawn pictures by the metrics of the benchmark, and UNets by their output error."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from prunella.evaluation.differences import ERROR, Values, difference, of_some, timestep_bins
from prunella.evaluation.metrics import check_metrics, find_metric
from prunella.evaluation.metrics.base import Metric, Subject, Unavailable, figures
from prunella.evaluation.output_error import output_errors, predict
from prunella.evaluation.preprocess import as_measured
from prunella.latents.encoders import open_latents
from prunella.latents.shards import Latents
from prunella.models.alike import apart
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.models.quantized import load_quantised
from prunella.params import Benchmark, bits_of
from prunella.sampling.gallery import BASE, Gallery
from prunella.stats import mean
from prunella.training.data import heldout_batches
from prunella.training.finetune import caption_contains

Report = dict[str, Any]


def score_teacher(
    params: Benchmark, *, teacher: Path, latents: Path, manifest: Path, drawn: Path, predictions: Path, device: str
) -> Report:
    """Scores of the teacher's gallery `drawn`, under {"models": {"teacher": …}}; its predictions into `predictions`.

    "floors" has what real pictures get, by metric, and "unavailable" the metrics that cannot be measured, with why.
    "pairs" is as `score_student` has it; "heldout" says what each pair of the output error is: {"timesteps", "last"}.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher, device)[1], load_scheduler(teacher)
    last = scheduler.config.num_train_timesteps
    batches = heldout_batches(heldout, params.batch_size, last)
    timesteps = predict(load_unet(teacher, device), scheduler, batches, predictions)
    scores = _Scores(params, teacher, heldout, manifest, drawn, device)
    found, values = scores.of(drawn)
    entry = {"output_error": 0.0, "output_error_estimate": mean([0.0] * len(timesteps)).rounded(), **found}
    return {
        "models": {"teacher": entry},
        "floors": scores.floors,
        "unavailable": scores.unavailable,
        "pairs": {"teacher": _rounded(values)},
        "heldout": {"timesteps": timesteps, "last": last},
    }


def score_student(
    params: Benchmark,
    *,
    words: list[str],
    student: str,
    models: dict[str, Path],
    teacher: Path,
    latents: Path,
    manifest: Path,
    drawn: Path,
    taught: Path,
    predictions: Path,
    device: str,
) -> Report:
    """Scores of a student at every stage: `models` are its folders by stage, `drawn` holds its galleries;
    `taught` is the teacher's gallery, of the same prompts and noise. A model of others' has a stage "base", and an
    output error only where its latents, texts and noise are the teacher's; "unavailable" says why where they are not.

    {"models": {"STUDENT/STAGE": …}, "differences": {"STUDENT/STAGE - STUDENT/STAGE": …}, "pairs": …}: differences of a
    stage from the one before, paired (`prunella.evaluation.differences`), and of the fine-tuned stage "on_words" and
    "on_rest" besides, where `words` chose what was fine-tuned on; "pairs" has the output error of every held-out pair
    and the value of every picture by the metrics that have one.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher, device)[1], load_scheduler(teacher)
    scores = _Scores(params, teacher, heldout, manifest, taught, device)
    entries: dict[str, Report] = {}
    values: dict[str, Values] = {}
    timesteps: list[int] = []
    last = scheduler.config.num_train_timesteps
    if why := apart(teacher, models[BASE]) if BASE in models else "":
        scores.unavailable[f"{student}: {ERROR}"] = f"beside the teacher it has {why}"
    for stage, folder in models.items():
        name = f"{student}/{stage}"
        entries[name], values[name] = {}, {}
        if not why:
            batches = heldout_batches(heldout, params.batch_size, last)
            bits = bits_of(stage)
            unet = load_quantised(folder, bits, torch.float32, device) if bits else load_unet(folder, device)
            errors, timesteps = output_errors(unet, scheduler, batches, predictions)
            bins = {part: [errors[i] for i in some] for part, some in timestep_bins(timesteps, last).items() if some}
            entries[name] = {"output_error": mean(errors).value, "output_error_estimate": mean(errors).rounded()}
            entries[name] |= {"output_error_by": {part: mean(some).rounded() for part, some in bins.items()}}
            values[name] = {ERROR: errors}
        found, each = scores.of(drawn / stage)
        entries[name] |= found
        values[name] = values[name] | each
    return {
        "models": entries,
        "differences": _changes(values, timestep_bins(timesteps, last), words, scores.texts, heldout.captions),
        "unavailable": scores.unavailable,
        "pairs": {name: _rounded(each) for name, each in values.items()},
    }


def _changes(
    values: dict[str, Values],
    bins: dict[str, list[int]],
    words: list[str],
    prompts: list[str],
    captions: list[str],
) -> dict[str, dict]:
    """Each stage against the one before, a quantised one against what it is made of.

    A fine-tuned one also on the captions with its words, and on the rest.
    """
    found = {}
    trained = [name for name in values if bits_of(name) is None]
    for before, after in [*pairwise(trained), *((trained[-1], name) for name in values if name not in trained)]:
        found[f"{after} - {before}"] = changed = difference(values[after], values[before], bins)
        if words and after.endswith("/finetuned"):
            own = [set(caption_contains(some, words).tolist()) for some in (captions, prompts)]
            rest = [set(range(len(some))) - mine for some, mine in zip((captions, prompts), own, strict=True)]
            for name, (pairs, pictures) in {"on_words": own, "on_rest": rest}.items():
                now, then = (of_some(values[each], sorted(pairs), sorted(pictures)) for each in (after, before))
                changed[name] = difference(now, then, {})
    return found


def _rounded(values: Values) -> Values:
    """For a report: six digits, truths as they are."""
    return {
        name: [each if each is None or isinstance(each, bool) else float(f"{each:.6g}") for each in every]
        for name, every in values.items()
    }


class _Scores:
    """Measures galleries by every metric asked for; what they share is loaded once."""

    def __init__(self, params: Benchmark, teacher: Path, heldout: Latents, manifest: Path, taught: Path, device: str):
        self.params = params
        self.unavailable: dict[str, str] = {}
        prompts = Gallery(taught).prompts
        self.texts = [prompt.text for prompt in prompts]
        self.subject = Subject(
            teacher=teacher,
            heldout=heldout,
            prompts=prompts,
            manifest=manifest,
            taught=taught,
            prompt_file=Path(params.prompt_file),
            backbones=params.backbones,
            real=params.real,
            resize=params.resize,
            jpeg=params.jpeg,
            device=device,
            batch_size=params.batch_size,
        )

    def of(self, folder: Path) -> tuple[dict[str, dict], Values]:
        """{metric: estimate, …} of the gallery in `folder`, and the values of its pictures by the metrics that do."""
        metrics = self._metrics()
        for prompts, images in Gallery(folder).batches(self.params.batch_size):
            measured = as_measured(images, self.params.resize, self.params.jpeg)
            for metric in metrics.values():
                metric.update(measured, [prompt.text for prompt in prompts])
        found: dict[str, dict] = {}
        values: Values = {}
        for name, metric in metrics.items():
            try:
                found |= figures(name, metric)
            except Unavailable as reason:
                self.unavailable[name] = str(reason)
                continue
            values |= {f"{name}{of}": each for of, each in metric.values().items()}
        return found, values

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
