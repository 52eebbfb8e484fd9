import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toyxl
from conftest import LATENT, SIDE, TOKENS, WIDTH

from prunella.latents.encoders import Encoders
from prunella.models.pipeline import load_pipeline


@pytest.fixture(scope="module")
def encoders(teacher):
    return Encoders(teacher, "cpu")


def test_latents_are_what_stock_diffusers_encodes(encoders, teacher):
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = encoders.encode_images(pictures)
    assert mean.shape == std.shape == (3, 4, LATENT, LATENT) and (std > 0).all()
    stock = load_pipeline(teacher)
    pixels = stock.image_processor.preprocess(pictures.astype(np.float32) / 255)
    with torch.no_grad():
        expected = stock.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, expected.mean, atol=1e-4) and torch.allclose(std, expected.std, atol=1e-4)


def test_text_is_what_the_stock_pipeline_feeds_its_unet(encoders, teacher):
    text, nothing = encoders.encode_captions(["a small red heart", ""]), encoders.encode_empty()
    assert set(text) == set(nothing) == {"text"} and text["text"].shape == (2, TOKENS, WIDTH)
    expected, empty = load_pipeline(teacher).encode_prompt("a small red heart", "cpu", 1, True)
    assert torch.allclose(text["text"][0], expected[0], atol=1e-5)
    for ours in (text["text"][1], nothing["text"]):
        assert torch.allclose(ours, empty[0], atol=1e-5)


def test_sdxls_text_is_both_encoders_last_but_one_and_the_pooled_one(xl_teacher):
    text = Encoders(xl_teacher, "cpu").encode_captions(["a small red heart", "two rings"])
    assert text["text"].shape == (2, TOKENS, sum(toyxl.WIDTHS)) and text["pooled"].shape == (2, toyxl.POOLED)
    stock = load_pipeline(xl_teacher)
    ids = stock.tokenizer(["two rings"], padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    with torch.no_grad():
        one, two = (
            stock.text_encoder(ids, output_hidden_states=True),
            stock.text_encoder_2(ids, output_hidden_states=True),
        )
    assert torch.allclose(text["text"][1], torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)[0], atol=1e-5)
    assert torch.allclose(text["pooled"][1], two.text_embeds[0], atol=1e-5)


def test_sdxls_empty_caption_is_zeros_where_the_pipeline_forces_them(xl_teacher, tmp_path):
    forced = Encoders(xl_teacher, "cpu").encode_empty()
    assert forced["text"].shape == (TOKENS, sum(toyxl.WIDTHS)) and forced["pooled"].shape == (toyxl.POOLED,)
    assert not forced["text"].any() and not forced["pooled"].any()
    free = Path(shutil.copytree(xl_teacher, tmp_path / "free"))
    index = json.loads((free / "model_index.json").read_text())
    (free / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    encoders = Encoders(free, "cpu")
    said, empty = encoders.encode_captions([""]), encoders.encode_empty()
    assert all(torch.allclose(empty[name], said[name][0], atol=1e-5) and empty[name].any() for name in said)


def test_captions_that_are_cut_are_counted(encoders, xl_teacher):
    # Nineteen tokens, two of which mark start and end.
    for each in (encoders, Encoders(xl_teacher, "cpu")):
        tokens, cut = each.tokenize(["red " * 17, "red " * 18, "red"])
        assert cut == 1 and {value.shape for value in tokens.values()} == {(3, TOKENS)}
        assert {value.dtype for value in tokens.values()} == {torch.int32}


def test_a_vae_that_overflows_in_fp16_computes_in_fp32(xl_teacher, teacher):
    assert Encoders(xl_teacher, "cpu", "fp16").precision == "fp32"
    assert Encoders(xl_teacher, "cpu", "bf16").precision == "bf16"
    assert Encoders(teacher, "cpu", "fp16").precision == "fp16"


def test_the_vae_computes_in_fewer_bits_when_asked(encoders, teacher):
    pictures = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    mean, _ = Encoders(teacher, "cpu", "bf16").encode_images(pictures)
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, encoders.encode_images(pictures)[0], rtol=0.1, atol=0.1)
