"""Real pictures, which sets of drawn ones are compared with: those of a folder, or those that passed the filter."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from prunella.data.buckets import assign_buckets
from prunella.data.images import IMAGE_SUFFIXES, RejectedImage, center_crop_resize, load_image
from prunella.data.manifest import Sample, batched, read_sample_manifest
from prunella.data.sources import open_source
from prunella.evaluation.metrics.base import Images, MetricContext, Unavailable
from prunella.evaluation.preprocess import preprocess_images

FeatureFn = Callable[[Images], np.ndarray]  # pictures of one size → NF features


class ImageFeatureSpace:
    """Features of pictures by `embed`, and those of the real ones, of which a batch of pictures is held at a time."""

    def __init__(self, context: MetricContext, embed: FeatureFn):
        self.embed = embed
        if context.real.path:
            self.real = _extract_features(embed, _iter_folder_batches(context, Path(context.real.path)))
            self.real_of_prompts = np.zeros((0, self.real.shape[1]), self.real.dtype)
        else:
            prompt_samples, other_samples = _split_reference(context)
            self.real = _extract_features(embed, _iter_dataset_batches(context, other_samples))
            self.real_of_prompts = (
                _extract_features(embed, _iter_dataset_batches(context, prompt_samples))
                if prompt_samples
                else np.zeros((0, self.real.shape[1]))
            )

    def __call__(self, images: Images) -> np.ndarray:
        return self.embed(images)


def get_image_feature_space(context: MetricContext, name: str, embed: FeatureFn) -> ImageFeatureSpace:
    """The space that all metrics and models share which look through the backbone `name`."""
    return context.get_shared(f"{name} of real pictures", lambda: ImageFeatureSpace(context, embed))


def _extract_features(embed: FeatureFn, batches: Iterator[Images]) -> np.ndarray:
    features = [embed(batch) for batch in batches]
    if not features:
        raise Unavailable("there is not one real picture to compare with (benchmark.reference_images)")
    return np.concatenate(features)


def _split_reference(context: MetricContext) -> tuple[list[Sample], list[Sample]]:
    """The pairs whose captions are drawn, and at most `real.pictures` of the others: a seeded choice that stays."""
    prompt_texts = {prompt.text for prompt in context.prompts}
    samples = context.get_shared("manifest", lambda: read_sample_manifest(context.manifest))[1]
    other_samples = [sample for sample in samples if not prompt_texts & set(sample.captions)]
    other_samples.sort(key=lambda sample: hashlib.sha256(f"{sample.key} {sample.sum}".encode()).digest())
    max_images = context.real.max_images
    return [sample for sample in samples if prompt_texts & set(sample.captions)][:max_images], other_samples[
        :max_images
    ]


def _iter_dataset_batches(context: MetricContext, samples: list[Sample]) -> Iterator[Images]:
    """Batches of one size each: a picture is cut to that of the drawn sizes which is nearest in proportions."""
    sizes = sorted({(prompt.width, prompt.height) for prompt in context.prompts})
    bucket_indices = assign_buckets(np.array([(sample.width, sample.height) for sample in samples]), sizes, np.inf)
    source, num_unreadable = open_source(context.data_info), 0
    for number, size in enumerate(sizes):
        bucket_samples = [sample for sample, bucket in zip(samples, bucket_indices, strict=True) if bucket == number]
        for chunk in batched(bucket_samples, context.batch_size):
            images = []
            for sample in chunk:
                try:
                    images.append(center_crop_resize(source.load_image(sample.key), *size))
                except RejectedImage:
                    num_unreadable += 1
            if images:
                yield preprocess_images(images, context.resize, context.jpeg, stored=True)
    if num_unreadable:
        print(f"real pictures: {num_unreadable} cannot be read any more and are left out", file=sys.stderr)


def _iter_folder_batches(context: MetricContext, folder: Path) -> Iterator[Images]:
    """Batches of one size each: that of the drawn pictures, or `resize`, to which they are then squashed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise Unavailable(
            f"benchmark.reference_images.path: {folder} holds no picture ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())
    size = max((prompt.width, prompt.height) for prompt in context.prompts)
    for chunk in batched(files[: context.real.max_images], context.batch_size):
        yield _read_folder_batch(chunk, size, context)


def _read_folder_batch(files: Sequence[Path], size: tuple[int, int], context: MetricContext) -> Images:
    images = [load_image(file) for file in files]
    if context.resize is None:
        return preprocess_images(
            [center_crop_resize(image, *size) for image in images], None, context.jpeg, stored=True
        )
    resized = [preprocess_images([np.asarray(image)], context.resize, context.jpeg, stored=True) for image in images]
    return [image for images in resized for image in images]
