import numpy as np
import pytest
import torch

from prunella.data.images import center_crop_resize
from prunella.data.manifest import read_sample_manifest
from prunella.data.sources import open_source
from prunella.evaluation.latent_features import get_latent_features, pool_latents


def test_features_are_means_over_cells():
    latents = torch.zeros(1, 1, 8, 8)
    latents[0, 0, :2, 2:4] = 3  # the second cell of the first row
    expected = [0.0] * 16
    expected[1] = 3
    assert pool_latents(latents).tolist() == [expected]


def test_drawn_pictures_have_the_features_of_the_held_out_ones_that_they_equal(subject, manifest):
    found = get_latent_features(subject)
    assert found.real_of_prompts.shape == (3, 64) and found.real.shape == (4, 64)
    source, pairs = read_sample_manifest(manifest)
    keys = {pair.text: pair.key for pair in pairs}
    image = open_source(source).load_image
    pictures = [center_crop_resize(image(keys[text]), 32, 32) for text in subject.heldout.captions[:3]]
    assert found(pictures) == pytest.approx(found.real_of_prompts, abs=1e-3)


def test_pictures_are_encoded_one_at_a_time_and_once_for_all_metrics(subject):
    found, shapes = get_latent_features(subject), []
    encode = found.vae._encode
    found.vae._encode = lambda x: shapes.append(tuple(x.shape)) or encode(x)
    pictures = [np.full((32, 48, 3), i, np.uint8) for i in range(5)]
    first = found(pictures)
    assert get_latent_features(subject)(pictures) is first  # as the next metric asks
    assert shapes == [(1, 3, 32, 48)] * 5 and first.shape == (5, 64)
