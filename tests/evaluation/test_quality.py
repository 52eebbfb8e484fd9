import numpy as np
import pytest
import torch
from conftest import SIDE
from diffusers import DDPMScheduler
from torch import nn

from prunella.data.images import fitted
from prunella.data.manifest import read_manifest
from prunella.data.sources import open_source
from prunella.evaluation.quality import Fidelity, composition, output_error
from prunella.latents.shards import Latents
from prunella.models.pipeline import load_pipeline
from prunella.scenes.generator import captioned
from prunella.scenes.judge import parse


def test_the_score_is_the_share_with_every_claim_true(vocabulary):
    scenes = [captioned(vocabulary, 2, i) for i in range(6)]
    captions, pictures = [text for text, _ in scenes], [picture for _, picture in scenes]
    pictures[0] = np.zeros_like(pictures[0])
    score = composition(pictures, captions, vocabulary)
    assert score["composition"]["value"] == pytest.approx(5 / 6, abs=1e-4) and score["composition"]["n"] == 6
    assert score["composition_by"]["count"]["value"] == pytest.approx(5 / 6, abs=1e-4)
    related = sum(parse(text, vocabulary).relation is not None for text in captions)
    assert score["composition_by"]["relation"]["n"] == related > 0
    assert list(score["composition_by"]) == ["background", "count", "colour", "shape", "size", "relation"]


def test_captions_of_no_scene_have_no_score(vocabulary):
    assert composition([np.zeros((64, 64, 3), np.uint8)], ["a cat"], vocabulary) == {}


class Scaled(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, noisy, timesteps, states):
        return type("Out", (), {"sample": self.scale * noisy})


def test_output_error_by_hand():
    scheduler = DDPMScheduler(num_train_timesteps=2, trained_betas=[0.0, 0.5])
    batch = {
        "latents": torch.tensor([[[[1.0, 2.0]]]]),
        "noise": torch.zeros(1, 1, 1, 2),
        "timesteps": torch.tensor([0]),
        "states": torch.zeros(1, 1, 1),
    }
    # Predictions 3·(1, 2) and 1·(1, 2) differ by (2, 4).
    assert output_error(Scaled(3.0), Scaled(1.0), scheduler, [batch]) == (4 + 16) / 2
    assert output_error(Scaled(1.0), Scaled(1.0), scheduler, [batch]) == 0.0


def test_the_frechet_distance_of_drawn_from_real_pictures(latents, teacher, manifest):
    heldout, vae = Latents(latents, "heldout"), load_pipeline(teacher).vae
    fidelity = Fidelity(vae, heldout, 3)
    source, pairs = read_manifest(manifest)

    def pictures(captions):
        return [fitted(open_source(source).image(pair.key), SIDE, SIDE) for pair in pairs if pair.text in captions]

    first, others = pictures(heldout.captions[:3]), pictures(heldout.captions[3:])
    assert (len(first), len(others)) == (3, 4)
    floor = fidelity.floor()["frechet_floor"]
    assert (floor["pictures"], floor["against"]) == (3, 4)
    # The held-out pictures themselves, drawn again, are as far from the others as they are.
    assert fidelity(first)["frechet"] == pytest.approx(floor["value"], rel=1e-3)
    assert abs(fidelity(others)["frechet"]) < 1e-3 * floor["value"]


def test_too_few_pictures_have_no_distance(latents, teacher):
    fidelity = Fidelity(load_pipeline(teacher).vae, Latents(latents, "heldout"), 6)
    assert fidelity([]) == {} and fidelity.floor() == {}
