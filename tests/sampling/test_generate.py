import json
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import SIDE

from prunella.models.pipeline import load_pipeline
from prunella.params import SchedulerName
from prunella.sampling.generate import SharedNoise, generate, generate_batch, load_for_inference

PROMPTS = ["a small red heart", "a ring", "a star"]
HOW = {"steps": 2, "guidance": 3.0, "seed": 1}


@pytest.fixture(scope="module")
def pipeline(teacher):
    return load_pipeline(teacher)


def test_batches_change_no_picture(pipeline):
    one, all_at_once = (list(generate(pipeline, PROMPTS, batch_size=size, **HOW)) for size in (1, 3))
    assert len(one) == 3 and one[0].shape == (SIDE, SIDE, 3) and one[0].dtype == np.uint8
    for a, b in zip(one, all_at_once, strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_noise_is_counted_from_first(pipeline):
    later = next(generate(pipeline, PROMPTS[2:], batch_size=2, first_noise_id=2, **HOW))
    assert np.abs(later.astype(int) - list(generate(pipeline, PROMPTS, batch_size=2, **HOW))[2]).max() <= 1
    other = next(generate(pipeline, PROMPTS[2:], batch_size=1, **(HOW | {"seed": 2}), first_noise_id=2))
    assert not np.array_equal(later, other)


def test_pictures_have_the_size_that_is_asked_for(pipeline):
    picture = generate_batch(pipeline, ["a ring"], [0], (48, 32), **HOW)
    assert picture.shape == (1, 32, 48, 3)
    (square,) = generate(pipeline, ["a ring"], batch_size=1, size=16, **HOW)
    assert square.shape == (16, 16, 3)


def test_a_negative_prompt_changes_the_picture(pipeline):
    plain, against = (
        generate_batch(pipeline, ["a ring"], [0], (32, 32), negative_prompt=text, **HOW) for text in ("", "a")
    )
    assert not np.array_equal(plain, against)


def test_sdxl_is_told_the_size_that_it_draws(xl_teacher):
    pipeline, sizes = load_for_inference(xl_teacher, "cpu"), []
    forward = pipeline.unet.forward
    pipeline.unet.forward = lambda *given, **named: (
        sizes.append(named["added_cond_kwargs"]["time_ids"].tolist()) or forward(*given, **named)
    )
    generate_batch(pipeline, ["a ring"], [0], (48, 32), **HOW)
    assert sizes[0] == [[32, 48, 0, 0, 32, 48]] * 2  # original height and width, crop, target


def test_the_safety_checker_is_left_out(own_teacher):
    index = own_teacher / "model_index.json"
    listed = json.loads(index.read_text()) | {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    }
    index.write_text(json.dumps(listed))  # without its weights, so loading it would fail
    pipeline = load_for_inference(own_teacher, "cpu")
    assert pipeline.safety_checker is None
    assert generate_batch(pipeline, ["a ring"], [0], (32, 32), **HOW).std() > 0


def test_weights_are_read_in_the_precision_that_is_drawn_in(teacher, monkeypatch):
    seen = {}

    def loaded(folder, device, **parts):
        seen.update(parts)
        return load_pipeline(folder, device, **parts)

    monkeypatch.setattr("prunella.sampling.generate.load_pipeline", loaded)
    pipeline = load_for_inference(teacher, "cpu", "bf16")
    assert seen["dtype"] == torch.bfloat16  # never an fp32 copy first
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    assert load_for_inference(teacher, "cpu", "tf32").unet.dtype == torch.float32


def test_the_vae_decodes_a_picture_at_a_time(teacher):
    pipeline, shapes = load_for_inference(teacher, "cpu"), []
    decode = pipeline.vae._decode
    pipeline.vae._decode = lambda z, **named: shapes.append(len(z)) or decode(z, **named)
    generate_batch(pipeline, PROMPTS, range(3), (32, 32), **HOW)
    assert shapes == [1, 1, 1]


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_every_scheduler_draws_and_batches_change_no_picture(name, teacher):
    pipeline = load_for_inference(teacher, "cpu", scheduler=name)
    assert type(pipeline.scheduler).__name__ == name
    trained = load_pipeline(teacher).scheduler.config
    assert pipeline.scheduler.config.prediction_type == trained.prediction_type
    assert pipeline.scheduler.config.beta_start == trained.beta_start
    both = generate_batch(pipeline, PROMPTS[:2], [4, 5], (32, 32), **HOW)
    alone = generate_batch(pipeline, PROMPTS[1:2], [5], (32, 32), **HOW)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1  # what a sampler adds is the picture's own, too


def test_a_stream_of_noise_is_one_generator_s_whatever_is_asked_for():
    source = torch.Generator().manual_seed(1234)
    expected = [torch.randn(1, 4, 8, 8, generator=source)[0] for _ in range(6)]
    stream = SharedNoise(1234, torch.device("cpu"), torch.float32)
    for numbers in ([0, 1], [2], [4, 5], [0], [3]):
        found = stream(numbers, (4, 8, 8))
        assert all(torch.equal(a, expected[number]) for a, number in zip(found, numbers, strict=True))


def test_a_picture_starts_from_the_noise_that_is_given(pipeline):
    stream = SharedNoise(1234, torch.device("cpu"), torch.float32)
    first, again = (generate_batch(pipeline, ["a ring"], [3], (32, 32), noise=stream, **HOW) for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, generate_batch(pipeline, ["a ring"], [3], (32, 32), **HOW))
