import json

import numpy as np
import pytest
from conftest import SIDE

from prunella.models.pipeline import load_pipeline
from prunella.sampling import benchmark_images as room
from prunella.sampling.benchmark_images import generate_benchmark_images
from prunella.sampling.benchmark_prompts import select_heldout_prompts
from prunella.sampling.gallery import ImageShards
from prunella.sampling.generate import generate


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def drawn(params, teacher, latents, out):
    return generate_benchmark_images(
        params.benchmark, name="a/pruned", model_dir=teacher, latents_dir=latents, out=out, device="cpu"
    )


def test_pictures_are_those_of_the_prompts_from_their_own_noise(params, teacher, latents, tmp_path):
    report = drawn(params, teacher, latents, tmp_path / "out")
    assert report["pictures"] == 3 and report["images_per_second"] > 0
    gallery = ImageShards(tmp_path / "out")
    assert gallery.prompts == select_heldout_prompts(latents, 3, params.benchmark.seed)
    pipeline = load_pipeline(teacher)
    for prompt, picture in gallery:
        settings = params.benchmark.sampling_kwargs
        (alone,) = generate(pipeline, [prompt.text], first_noise_id=prompt.number, batch_size=1, **settings)
        assert picture.shape == (SIDE, SIDE, 3) and np.abs(picture.astype(int) - alone).max() <= 1


def test_a_second_drawing_loads_no_model_and_is_the_same(params, teacher, latents, tmp_path, monkeypatch):
    drawn(params, teacher, latents, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(room, "load_for_inference", None)
    drawn(params, teacher, latents, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_another_model_is_drawn_anew(params, teacher, own_teacher, latents, tmp_path):
    drawn(params, teacher, latents, tmp_path / "out")
    first = [picture for _, picture in ImageShards(tmp_path / "out")]
    path = own_teacher / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_start": 0.001}))
    drawn(params, own_teacher, latents, tmp_path / "out")
    second = [picture for _, picture in ImageShards(tmp_path / "out")]
    assert not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
