import pytest
import torch
from conftest import LEARNING
from diffusers import DDPMScheduler
from torch import nn

from prunella.params import Distill, check
from prunella.students.derive import FeaturePair
from prunella.training.losses import Distillation, Task, mse

WEIGHTS = {"task_weight": 1.0, "output_weight": 0.5, "feature_weight": 0.25, "features": None}


class Toy(nn.Module):
    """Predicts scale × input, through an inner module whose output is twice that."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.inner = nn.Identity()

    def forward(self, noisy, timesteps, states):
        return type("Out", (), {"sample": self.inner(2 * self.scale * noisy) / 2})


@pytest.fixture
def scheduler():
    # At step 0 nothing is noised: the net sees the latents themselves.
    return DDPMScheduler(num_train_timesteps=2, trained_betas=[0.0, 0.5], prediction_type="epsilon")


BATCH = {
    "latents": torch.tensor([[[[1.0, 2.0]]]]),
    "noise": torch.tensor([[[[3.0, 0.0]]]]),
    "timesteps": torch.tensor([0]),
    "states": torch.zeros(1, 1, 1),
}
PAIRS = [FeaturePair("inner", "inner", "inner")]


def distillation(scheduler, **weights):
    return Distillation(Toy(2.0), PAIRS, scheduler, check(Distill, LEARNING | WEIGHTS | weights, "distill"))


def test_every_term_by_hand(scheduler):
    terms = distillation(scheduler)(Toy(1.0), BATCH)
    # The student predicts (1, 2), the teacher (2, 4), the noise is (3, 0); features are (2, 4) and (4, 8).
    assert terms["task"].item() == (2**2 + 2**2) / 2
    assert terms["output"].item() == (1**2 + 2**2) / 2
    assert terms["feature/inner"].item() == (2**2 + 4**2) / 2
    assert terms["loss"].item() == 1.0 * 4 + 0.5 * 2.5 + 0.25 * 10


@pytest.mark.parametrize(("name", "share"), [("task_weight", 4), ("output_weight", 1.25), ("feature_weight", 2.5)])
def test_a_weight_of_zero_leaves_its_term_out(scheduler, name, share):
    terms = distillation(scheduler, **{name: 0})(Toy(1.0), BATCH)
    assert terms["loss"].item() == 7.75 - share
    assert ("feature/inner" in terms) == (name != "feature_weight")


def test_only_the_student_learns(scheduler):
    loss, student = distillation(scheduler), Toy(1.0)
    loss(student, BATCH)["loss"].backward()
    assert student.scale.grad is not None and loss.teacher.scale.grad is None
    assert not loss.teacher.training and not loss.teacher.scale.requires_grad


def test_a_student_equal_to_its_teacher_differs_in_nothing(scheduler):
    terms = distillation(scheduler)(Toy(2.0), BATCH)
    assert terms["output"].item() == terms["feature/inner"].item() == 0


def test_v_prediction_is_compared_with_v():
    scheduler = DDPMScheduler(num_train_timesteps=2, trained_betas=[0.0, 0.36], prediction_type="v_prediction")
    batch = BATCH | {"timesteps": torch.tensor([1])}
    # Noised: 0.8·(1, 2) + 0.6·(3, 0) = (2.6, 1.6); v: 0.8·(3, 0) - 0.6·(1, 2) = (1.8, -1.2).
    assert Task(scheduler)(Toy(1.0), batch)["task"].item() == pytest.approx((0.8**2 + 2.8**2) / 2)


def test_errors_are_squared_in_fp32():
    assert mse(torch.tensor([300.0], dtype=torch.float16), torch.tensor([0.0], dtype=torch.float16)).item() == 90_000
