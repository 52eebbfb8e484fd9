"""Score: drawn pictures by the metrics of the benchmark, and UNets by their output error."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from prunella.evaluation.differences import OUTPUT_ERROR, Values, bin_timesteps, compare_values, select_values
from prunella.evaluation.metrics import check_metrics, find_metric
from prunella.evaluation.metrics.base import Metric, MetricContext, Unavailable, make_report_entries
from prunella.evaluation.output_error import measure_output_errors, write_teacher_predictions
from prunella.evaluation.preprocess import preprocess_images
from prunella.latents.encoders import open_latents
from prunella.latents.shards import LatentDataset
from prunella.models.alike import describe_incompatibilities
from prunella.models.pipeline import load_scheduler, load_unet
from prunella.models.quantized import load_quantized_unet
from prunella.params import Benchmark, parse_quantized_dtype
from prunella.sampling.gallery import BASE_STAGE, ImageShards
from prunella.stats import estimate_mean
from prunella.training.data import iter_heldout_batches
from prunella.training.finetune import find_captions_with

Report = dict[str, Any]


def score_teacher(
    params: Benchmark,
    *,
    teacher_dir: Path,
    latents: Path,
    manifest: Path,
    images_dir: Path,
    predictions: Path,
    device: str,
) -> Report:
    """Scores of the teacher's gallery `images_dir`, under {"models": {"teacher": …}}; its predictions into
    `predictions`.

    "floors" has what real pictures get, by metric, and "unavailable" the metrics that cannot be measured, with why.
    "pairs" is as `score_student` has it; "heldout" says what each pair of the output error is: {"timesteps", "last"}.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher_dir, device)[1], load_scheduler(teacher_dir)
    num_train_timesteps = scheduler.config.num_train_timesteps
    batches = iter_heldout_batches(heldout, params.batch_size, num_train_timesteps)
    timesteps = write_teacher_predictions(load_unet(teacher_dir, device), scheduler, batches, predictions)
    runner = _MetricRunner(params, teacher_dir, heldout, manifest, images_dir, device)
    metric_entries, values = runner.score_folder(images_dir)
    entry = {
        "output_error": 0.0,
        "output_error_estimate": estimate_mean([0.0] * len(timesteps)).to_report_dict(),
        **metric_entries,
    }
    return {
        "models": {"teacher": entry},
        "floors": runner.real_data_floors,
        "unavailable": runner.unavailable,
        "pairs": {"teacher": _round_values(values)},
        "heldout": {"timesteps": timesteps, "last": num_train_timesteps},
    }


def score_student(
    params: Benchmark,
    *,
    keywords: list[str],
    student: str,
    models: dict[str, Path],
    teacher_dir: Path,
    latents: Path,
    manifest: Path,
    images_dir: Path,
    teacher_images_dir: Path,
    predictions: Path,
    device: str,
) -> Report:
    """Scores of a student at every stage: `models` are its folders by stage, `images_dir` holds its galleries;
    `teacher_images_dir` is the teacher's gallery, of the same prompts and noise. A model of others' has a stage
    "base", and an output error only where its latents, texts and noise are the teacher's; "unavailable" says why where
    they are not.

    {"models": {"STUDENT/STAGE": …}, "differences": {"STUDENT/STAGE - STUDENT/STAGE": …}, "pairs": …}: differences of a
    stage from the one before, paired (`prunella.evaluation.differences`), and of the fine-tuned stage "on_words" and
    "on_rest" besides, where `keywords` chose what was fine-tuned on; "pairs" has the output error of every held-out
    pair and the value of every picture by the metrics that have one.
    """
    check_metrics(params.metrics)
    heldout, scheduler = open_latents(latents, teacher_dir, device)[1], load_scheduler(teacher_dir)
    runner = _MetricRunner(params, teacher_dir, heldout, manifest, teacher_images_dir, device)
    entries: dict[str, Report] = {}
    values: dict[str, Values] = {}
    timesteps: list[int] = []
    num_train_timesteps = scheduler.config.num_train_timesteps
    if incompatibility := describe_incompatibilities(teacher_dir, models[BASE_STAGE]) if BASE_STAGE in models else "":
        runner.unavailable[f"{student}: {OUTPUT_ERROR}"] = f"beside the teacher it has {incompatibility}"
    for stage, folder in models.items():
        name = f"{student}/{stage}"
        entries[name], values[name] = {}, {}
        if not incompatibility:
            batches = iter_heldout_batches(heldout, params.batch_size, num_train_timesteps)
            dtype = parse_quantized_dtype(stage)
            unet = load_quantized_unet(folder, dtype, torch.float32, device) if dtype else load_unet(folder, device)
            errors, timesteps = measure_output_errors(unet, scheduler, batches, predictions)
            bins = {
                bin_name: [errors[i] for i in indices]
                for bin_name, indices in bin_timesteps(timesteps, num_train_timesteps).items()
                if indices
            }
            entries[name] = {
                "output_error": estimate_mean(errors).value,
                "output_error_estimate": estimate_mean(errors).to_report_dict(),
            }
            entries[name] |= {
                "output_error_by": {
                    bin_name: estimate_mean(indices).to_report_dict() for bin_name, indices in bins.items()
                }
            }
            values[name] = {OUTPUT_ERROR: errors}
        metric_entries, image_values = runner.score_folder(images_dir / stage)
        entries[name] |= metric_entries
        values[name] = values[name] | image_values
    return {
        "models": entries,
        "differences": _compare_stages(
            values, bin_timesteps(timesteps, num_train_timesteps), keywords, runner.prompt_texts, heldout.captions
        ),
        "unavailable": runner.unavailable,
        "pairs": {name: _round_values(image_values) for name, image_values in values.items()},
    }


def _compare_stages(
    values: dict[str, Values],
    bins: dict[str, list[int]],
    keywords: list[str],
    prompts: list[str],
    captions: list[str],
) -> dict[str, dict]:
    """Each stage against the one before, a quantised one against what it is made of.

    A fine-tuned one also on the captions with its words, and on the rest.
    """
    comparisons = {}
    unquantized = [name for name in values if parse_quantized_dtype(name) is None]
    for before, after in [
        *pairwise(unquantized),
        *((unquantized[-1], name) for name in values if name not in unquantized),
    ]:
        comparisons[f"{after} - {before}"] = comparison = compare_values(values[after], values[before], bins)
        if keywords and after.endswith("/finetuned"):
            on_keywords = [set(find_captions_with(texts, keywords).tolist()) for texts in (captions, prompts)]
            on_rest = [
                set(range(len(texts))) - matching
                for texts, matching in zip((captions, prompts), on_keywords, strict=True)
            ]
            for name, (sample_indices, image_indices) in {"on_words": on_keywords, "on_rest": on_rest}.items():
                after_values, before_values = (
                    select_values(values[each], sorted(sample_indices), sorted(image_indices))
                    for each in (after, before)
                )
                comparison[name] = compare_values(after_values, before_values, {})
    return comparisons


def _round_values(values: Values) -> Values:
    """For a report: six digits, truths as they are."""
    return {
        name: [each if each is None or isinstance(each, bool) else float(f"{each:.6g}") for each in metric_values]
        for name, metric_values in values.items()
    }


class _MetricRunner:
    """Measures galleries by every metric asked for; what they share is loaded once."""

    def __init__(
        self,
        params: Benchmark,
        teacher_dir: Path,
        heldout: LatentDataset,
        manifest: Path,
        teacher_images_dir: Path,
        device: str,
    ):
        self.params = params
        self.unavailable: dict[str, str] = {}
        prompts = ImageShards(teacher_images_dir).prompts
        self.prompt_texts = [prompt.text for prompt in prompts]
        self.context = MetricContext(
            teacher_dir=teacher_dir,
            heldout=heldout,
            prompts=prompts,
            manifest=manifest,
            teacher_images_dir=teacher_images_dir,
            prompt_file=Path(params.prompt_file),
            backbones=params.backbones,
            real=params.reference_images,
            resize=params.resize,
            jpeg=params.jpeg,
            device=device,
            batch_size=params.batch_size,
        )

    def score_folder(self, folder: Path) -> tuple[dict[str, dict], Values]:
        """{metric: estimate, …} of the gallery in `folder`, and the values of its pictures by the metrics that do."""
        metrics = self._build_metrics()
        for prompts, images in ImageShards(folder).iter_batches(self.params.batch_size):
            preprocessed = preprocess_images(images, self.params.resize, self.params.jpeg)
            for metric in metrics.values():
                metric.update(preprocessed, [prompt.text for prompt in prompts])
        entries: dict[str, dict] = {}
        values: Values = {}
        for name, metric in metrics.items():
            try:
                entries |= make_report_entries(name, metric)
            except Unavailable as reason:
                self.unavailable[name] = str(reason)
                continue
            values |= {f"{name}{suffix}": metric_values for suffix, metric_values in metric.values().items()}
        return entries, values

    @property
    def real_data_floors(self) -> dict[str, dict]:
        """{metric: estimate} of real pictures, for the metrics that know it."""
        floors = {name: metric.real_data_floor() for name, metric in self._build_metrics().items()}
        return {name: floor.to_report_dict() for name, floor in floors.items() if floor is not None}

    def _build_metrics(self) -> dict[str, Metric]:
        """A fresh one of each."""
        metrics: dict[str, Metric] = {}
        for name in self.params.metrics:
            try:
                metrics[name] = find_metric(name).build(self.context)
            except Unavailable as reason:
                self.unavailable[name] = str(reason)
        return metrics
