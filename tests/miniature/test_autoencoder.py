import pytest
import torch

from prunella.miniature.autoencoder import build_autoencoder, measure_whiteness


def test_white_latents_cost_nothing_and_others_their_distance():
    white = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]).view(1, 2, 2, 2)
    assert measure_whiteness(white).item() == 0
    # Means 3 and 0; covariance [[1, 0], [0, 4]].
    assert (
        measure_whiteness(
            white * torch.tensor([1.0, 2]).view(1, 2, 1, 1) + torch.tensor([3.0, 0]).view(1, 2, 1, 1)
        ).item()
        == 18
    )
    # Twice the same channel: covariance all ones.
    assert measure_whiteness(white[:, :1].repeat(1, 2, 1, 1)).item() == 2


def test_whiteness_looks_at_all_pictures_and_positions_at_once():
    # Constant within each picture, white over the two.
    assert measure_whiteness(torch.tensor([1.0, -1]).view(2, 1, 1, 1).expand(2, 1, 3, 5)).item() == pytest.approx(0)


def test_residual_branches_start_as_nothing(recipe):
    vae = build_autoencoder(recipe.autoencoder)
    for block in (vae.encoder.mid_block.resnets[0], vae.decoder.up_blocks[0].resnets[0]):
        assert not block.conv2.weight.any() and not block.conv2.bias.any() and block.conv1.weight.any()
