"""The common part of the benches that train students: a setting, and pictures judged claim by claim."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn
from tqdm import tqdm

from prunella.compute.device import resolve_device
from prunella.latents.shards import MANIFEST
from prunella.models.pipeline import load_pipeline, resolve_teacher_dir
from prunella.params import Benchmark, Distill, Params
from prunella.sampling.generate import generate
from prunella.scenes.generator import Vocabulary, read_vocabulary
from prunella.scenes.judge import judge_image
from prunella.storage.files import json_digest, sha256


class ExperimentSetting(NamedTuple):
    """The common part of all runs: the parameters, the teacher's folder, the encoded pairs, how they are measured."""

    distill: Distill
    benchmark: Benchmark
    teacher_dir: Path
    latents_dir: Path
    vocabulary: Vocabulary
    device: str

    @property
    def unet_weights_path(self) -> Path:
        """The teacher's weights, or the index of their parts."""
        return next(iter(sorted((self.teacher_dir / "unet").glob("*.safetensors*"), reverse=True)))

    def compute_digest(self, *parts: Any) -> str:
        """16 digits that stand for what decides a row of evidence: `decides`, the pairs and the teacher's weights."""
        manifest = json.loads((self.latents_dir / MANIFEST).read_text(encoding="utf-8"))
        return json_digest([*parts, manifest, sha256(self.unet_weights_path)])[:16]

    def judge_generated_images(self, unet: nn.Module, captions: Sequence[str]) -> list[bool]:
        """For each caption of a scene, whether all its claims are true in the picture that `unet` draws of it."""
        pipeline = load_pipeline(self.teacher_dir, self.device, unet=unet)
        sampling_kwargs = {"batch_size": self.benchmark.batch_size, **self.benchmark.sampling_kwargs}
        images = tqdm(generate(pipeline, captions, **sampling_kwargs), "draw", len(captions), unit="picture")
        return judge_images(images, captions, self.vocabulary)


def load_local_setting(params: Params) -> ExperimentSetting:
    """The setting of what `dvc repro` has pinned and encoded in this folder."""
    return ExperimentSetting(
        params.distill,
        params.benchmark,
        resolve_teacher_dir(Path("models/teacher.json")),
        Path("data/latents"),
        read_vocabulary(params.filter.path),
        resolve_device(params.runtime),
    )


def judge_images(images: Iterable[np.ndarray], captions: Sequence[str], vocabulary: Vocabulary) -> list[bool]:
    """For each caption of a scene, whether all its claims are true in the picture; others are passed over."""
    verdicts = (judge_image(image, caption, vocabulary) for image, caption in zip(images, captions, strict=True))
    return [all(verdict.values()) for verdict in verdicts if verdict is not None]
