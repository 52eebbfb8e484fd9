from pathlib import Path

import numpy as np
import pytest
from networks import toy_clip, toy_dino, toy_head, toy_inception, toy_vgg, toy_vqa

from prunella.evaluation.metrics.base import MetricContext
from prunella.latents.shards import LatentDataset
from prunella.params import Backbones, ReferenceImages
from prunella.sampling.benchmark_prompts import Prompt
from prunella.sampling.gallery import collect_images, generate_image_shards
from prunella.sampling.image_shards import split_into_shards

NONE: dict[str, str | None] = dict.fromkeys(Backbones.model_fields)


def picture(number: int, width: int = 32, height: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def prompts(latents) -> list[Prompt]:
    """The seven held-out captions, in the split's order."""
    return [Prompt(i, text, 32, 32, i) for i, text in enumerate(LatentDataset(latents, "heldout").captions)]


@pytest.fixture
def taught(prompts, tmp_path) -> Path:
    """The teacher's gallery of the seven: random pixels, numbered from 100."""
    tasks = split_into_shards(prompts, 2)
    generate_image_shards(
        tasks, lambda some: np.stack([picture(100 + each.number) for each in some]), tmp_path / "work", "draw"
    )
    collect_images(tasks, tmp_path / "work", tmp_path / "taught", {})
    return tmp_path / "taught"


@pytest.fixture
def make_subject(latents, teacher, manifest, prompts, taught, tmp_path):
    """A function from a number of held-out pairs that are drawn, of seven, to what they are measured against."""

    def made(drawn: int, batch_size: int = 2, **changes) -> MetricContext:
        given = {
            "teacher_dir": teacher,
            "heldout": LatentDataset(latents, "heldout"),
            "prompts": prompts[:drawn],
            "manifest": manifest,
            "teacher_images_dir": taught,
            "prompt_file": tmp_path / "prompts.jsonl",
            "backbones": Backbones(**NONE),
            "real": ReferenceImages(path=None, max_images=100),
            "resize": None,
            "jpeg": False,
            "device": "cpu",
            "batch_size": batch_size,
        }
        return MetricContext(**given | changes)

    return made


@pytest.fixture
def subject(make_subject) -> MetricContext:
    return make_subject(3)


@pytest.fixture(scope="session")
def networks(teacher, once) -> Backbones:
    """Small random networks for every metric that looks through one."""

    def made(folder: Path) -> None:
        for name in ("clip", "preference", "hpsv2"):
            toy_clip(folder / name, teacher / "tokenizer")
        toy_dino(folder / "dino")
        toy_head(folder / "head.pth")
        toy_inception(folder / "inception.pt")
        toy_vgg(folder / "vgg.pt")
        toy_vqa(folder / "vqa", teacher / "tokenizer")

    folder = once("networks", made)
    places = {name: str(folder / name) for name in ("clip", "dino", "preference", "hpsv2", "vqa")}
    files = {"inception": "inception.pt", "vgg": "vgg.pt", "aesthetic": "head.pth"}
    return Backbones(**NONE | places | {name: str(folder / file) for name, file in files.items()})
