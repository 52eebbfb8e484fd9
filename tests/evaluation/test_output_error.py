import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from prunella.errors import UserError
from prunella.evaluation.output_error import measure_output_errors, write_teacher_predictions


class Scaled(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, noisy, timesteps, states):
        return type("Out", (), {"sample": self.scale * noisy})


@pytest.fixture
def scheduler():
    return DDPMScheduler(num_train_timesteps=2, trained_betas=[0.0, 0.5])


def batch(pair: int, *values: float) -> dict:
    return {
        "pairs": torch.tensor([pair]),
        "latents": torch.tensor([[[list(values)]]]),
        "noise": torch.zeros(1, 1, 1, len(values)),
        "timesteps": torch.tensor([0]),
        "states": torch.zeros(1, 1, 1),
    }


def test_errors_pair_by_pair_by_hand(scheduler, tmp_path):
    batches = [batch(4, 1.0, 2.0), batch(2, 0.0, 3.0)]
    assert write_teacher_predictions(Scaled(1.0), scheduler, batches, tmp_path) == [0, 0]
    # Predictions 3·x and x differ by 2·x: (2, 4) and (0, 6).
    assert measure_output_errors(Scaled(3.0), scheduler, batches, tmp_path) == (
        [36 / 2, (4 + 16) / 2],
        [0, 0],
    )  # pair 2, pair 4
    assert measure_output_errors(Scaled(1.0), scheduler, batches, tmp_path).errors == [0.0, 0.0]


def test_predictions_of_other_pairs_are_refused(scheduler, tmp_path):
    write_teacher_predictions(Scaled(1.0), scheduler, [batch(4, 1.0, 2.0)], tmp_path)
    for others in ([batch(5, 1.0, 2.0)], [batch(4, 1.0, 2.0), batch(5, 1.0, 2.0)]):
        with pytest.raises(UserError, match=r"0000\d\.safetensors: .*score_teacher"):
            measure_output_errors(Scaled(1.0), scheduler, others, tmp_path)
