import pytest
import torch
from diffusers import DDPMScheduler

from prunella.compute.seeds import make_generator
from prunella.training.objectives import make_objective, sample_latents


def test_generators_differ_in_every_number():
    seeds = {make_generator(*numbers).initial_seed() for numbers in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]}
    assert len(seeds) == 6
    assert torch.equal(torch.rand(3, generator=make_generator(4, 2)), torch.rand(3, generator=make_generator(4, 2)))


def test_latents_are_drawn_and_scaled():
    mean, std = torch.full((1, 1, 1, 2), 3.0), torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    lot = torch.randn(1, 1, 1, 2, generator=make_generator(7))
    drawn = sample_latents(mean, std, make_generator(7), 0.5)
    assert drawn.flatten().tolist() == pytest.approx([1.5, 0.5 * (3 + lot[0, 0, 0, 1].item())])


def test_targets_by_hand():
    latents, noise, when = torch.tensor([[[[2.0]]]]), torch.tensor([[[[3.0]]]]), torch.tensor([1])
    betas = {"trained_betas": [0.0, 0.36]}  # the share of signal left after step 1 is 0.64
    epsilon = DDPMScheduler(num_train_timesteps=2, prediction_type="epsilon", **betas)
    assert make_objective(epsilon).target(latents, noise, when).item() == 3.0
    v = DDPMScheduler(num_train_timesteps=2, prediction_type="v_prediction", **betas)
    assert make_objective(v).target(latents, noise, when).item() == pytest.approx(0.8 * 3 - 0.6 * 2)


def test_other_predictions_are_refused():
    sample = DDPMScheduler(prediction_type="sample")
    with pytest.raises(ValueError, match="sample"):
        make_objective(sample).target(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.long))


def test_min_snr_by_hand():
    # Signal left after steps 0 and 1: 0.8 and 0.2, so SNR 4 and 0.25.
    when, betas = torch.tensor([0, 1]), {"num_train_timesteps": 2, "trained_betas": [0.2, 0.75]}
    epsilon = DDPMScheduler(prediction_type="epsilon", **betas)
    assert make_objective(epsilon).min_snr_weight(when, 1.0).tolist() == pytest.approx([1 / 4, 1])
    v = DDPMScheduler(prediction_type="v_prediction", **betas)
    assert make_objective(v).min_snr_weight(when, 1.0).tolist() == pytest.approx([1 / 5, 0.25 / 1.25])


def test_min_snr_where_nothing_is_left_of_the_signal():
    bare = {"num_train_timesteps": 1, "trained_betas": [1.0]}
    assert make_objective(DDPMScheduler(prediction_type="epsilon", **bare)).min_snr_weight(
        torch.tensor([0]), 5.0
    ).tolist() == [1.0]
    assert make_objective(DDPMScheduler(prediction_type="v_prediction", **bare)).min_snr_weight(
        torch.tensor([0]), 5.0
    ).tolist() == [0.0]
