import numpy as np
import pytest
import torch
from conftest import LATENT, SIDE, TOKENS, WIDTH

from prunella.latents.encoders import Encoders
from prunella.teachers import load_pipeline


@pytest.fixture(scope="module")
def encoders(teacher):
    return Encoders(teacher, "cpu")


def test_latents_are_what_stock_diffusers_encodes(encoders, teacher):
    pictures = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = encoders.latents(pictures)
    assert mean.shape == std.shape == (3, 4, LATENT, LATENT) and (std > 0).all()
    stock = load_pipeline(teacher)
    pixels = stock.image_processor.preprocess(pictures.astype(np.float32) / 255)
    with torch.no_grad():
        expected = stock.vae.encode(pixels).latent_dist
    assert torch.allclose(mean, expected.mean, atol=1e-4) and torch.allclose(std, expected.std, atol=1e-4)


def test_text_is_what_the_stock_pipeline_feeds_its_unet(encoders, teacher):
    text, cut = encoders.text(["a small red heart", ""])
    assert text.shape == (2, TOKENS, WIDTH) and cut == 0
    stock = load_pipeline(teacher)
    expected, empty = stock.encode_prompt("a small red heart", "cpu", 1, True)
    assert torch.allclose(text[0], expected[0], atol=1e-5) and torch.allclose(text[1], empty[0], atol=1e-5)


def test_captions_that_are_cut_are_counted(encoders):
    # Nineteen tokens, two of which mark start and end.
    assert encoders.text(["red " * 17, "red " * 18, "red"])[1] == 1


def test_the_vae_computes_in_fewer_bits_when_asked(encoders, teacher):
    pictures = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    mean, _ = Encoders(teacher, "cpu", "bf16").latents(pictures)
    assert mean.dtype == torch.float32
    assert torch.allclose(mean, encoders.latents(pictures)[0], rtol=0.1, atol=0.1)
