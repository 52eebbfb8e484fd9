"""What the benches that train students share: a setting, and pictures judged claim by claim."""

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


class Setting(NamedTuple):
    """What all runs share: the parameters, the teacher's folder, the encoded pairs, how they are measured."""

    distill: Distill
    benchmark: Benchmark
    teacher: Path
    latents: Path
    vocabulary: Vocabulary
    device: str

    @property
    def unet(self) -> Path:
        """The teacher's weights, or the index of their parts."""
        return next(iter(sorted((self.teacher / "unet").glob("*.safetensors*"), reverse=True)))

    def digest(self, *decides: Any) -> str:
        """16 digits that stand for what decides a row of evidence: `decides`, the pairs and the teacher's weights."""
        data = json.loads((self.latents / MANIFEST).read_text(encoding="utf-8"))
        return json_digest([*decides, data, sha256(self.unet)])[:16]

    def drawn_right(self, unet: nn.Module, captions: Sequence[str]) -> list[bool]:
        """Of each caption of a scene whether all its claims are true in the picture that `unet` draws of it."""
        pipeline = load_pipeline(self.teacher, self.device, unet=unet)
        how = {"batch_size": self.benchmark.batch_size, **self.benchmark.sampling_kwargs}
        pictures = tqdm(generate(pipeline, captions, **how), "draw", len(captions), unit="picture")
        return right(pictures, captions, self.vocabulary)


def encoded_here(params: Params) -> Setting:
    """The setting of what `dvc repro` has pinned and encoded in this folder."""
    return Setting(
        params.distill,
        params.benchmark,
        resolve_teacher_dir(Path("models/teacher.json")),
        Path("data/latents"),
        read_vocabulary(params.filter.path),
        resolve_device(params.runtime),
    )


def right(pictures: Iterable[np.ndarray], captions: Sequence[str], vocabulary: Vocabulary) -> list[bool]:
    """Of each caption of a scene whether all its claims are true in the picture; others are passed over."""
    verdicts = (judge_image(picture, caption, vocabulary) for picture, caption in zip(pictures, captions, strict=True))
    return [all(verdict.values()) for verdict in verdicts if verdict is not None]
