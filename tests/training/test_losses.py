import pytest
import torch
from conftest import DISTILLING
from diffusers import DDPMScheduler
from torch import nn

from prunella.params import Distill, validate_config
from prunella.pruning.mapping import FeaturePair
from prunella.training.losses import (
    DiffusionLoss,
    DistillationLoss,
    LossWithAuxiliary,
    feature_error,
    per_sample_mse,
    weight_at,
)

WEIGHTS = {"task_weight": 1.0, "output_weight": 0.5, "feature_weight": 0.25}


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
    return DistillationLoss(
        Toy(2.0), PAIRS, scheduler, validate_config(Distill, DISTILLING | WEIGHTS | weights, "distill")
    )


def test_every_term_by_hand(scheduler):
    terms = distillation(scheduler)(Toy(1.0), BATCH)
    # The student predicts (1, 2), the teacher (2, 4), the noise is (3, 0); features are (2, 4) and (4, 8).
    assert terms["task"].item() == (2**2 + 2**2) / 2
    assert terms["output"].item() == (1**2 + 2**2) / 2
    assert terms["feature/inner"].item() == (2**2 + 4**2) / 2
    assert terms["loss"].item() == 1.0 * 4 + 0.5 * 2.5 + 0.25 * 10


def test_what_is_beside_counts_by_its_kinds_weight(scheduler):
    kept = {f"prior/{name}": value for name, value in BATCH.items()}
    learned = {f"rehearsal/{name}": 2 * value for name, value in BATCH.items()}
    loss = LossWithAuxiliary(DiffusionLoss(scheduler), {"prior": 0.5, "rehearsal": 3.0})
    terms = loss(Toy(1.0), BATCH | kept | learned)
    # Twice the latents and noise: (2, 4) against (6, 0), at the same timestep.
    assert (terms["task"].item(), terms["prior"].item(), terms["rehearsal"].item()) == (4.0, 4.0, 16.0)
    assert terms["loss"].item() == 4.0 + 0.5 * 4.0 + 3.0 * 16.0
    assert loss(Toy(1.0), BATCH) == {"loss": 4.0, "task": 4.0}  # what is held out has nothing beside it


@pytest.mark.parametrize(("name", "share"), [("task_weight", 4), ("output_weight", 1.25), ("feature_weight", 2.5)])
def test_a_weight_of_zero_leaves_its_term_out(scheduler, name, share):
    terms = distillation(scheduler, **{name: 0})(Toy(1.0), BATCH)
    assert terms["loss"].item() == 7.75 - share
    assert ("feature/inner" in terms) == (name != "feature_weight")  # nothing is listened to in vain


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
    assert DiffusionLoss(scheduler)(Toy(1.0), batch)["task"].item() == pytest.approx((0.8**2 + 2.8**2) / 2)


def test_errors_are_squared_in_fp32():
    ours, theirs = torch.tensor([[300.0]], dtype=torch.float16), torch.tensor([[0.0]], dtype=torch.float16)
    assert per_sample_mse(ours, theirs).tolist() == [90_000]


def test_a_normalised_feature_error_is_a_share_of_the_teachers_mean_square():
    ours, theirs = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[2.0, 4.0], [1.0, 3.0]])
    # Squared differences 1, 1 and 1, 9; the teacher's squares 4, 16 and 1, 9.
    assert feature_error(ours, theirs, "none").tolist() == [1.0, 5.0]
    assert feature_error(ours, theirs, "teacher").tolist() == pytest.approx([1 / 10, 5 / 5])


def test_normalised_features_count_in_the_total(scheduler):
    terms = distillation(scheduler, feature_normalization="teacher")(Toy(1.0), BATCH)
    assert terms["feature/inner"].item() == pytest.approx(10 / 40)
    assert terms["loss"].item() == pytest.approx(1.0 * 4 + 0.5 * 2.5 + 0.25 * 10 / 40)


def test_weights_may_go_from_point_to_point():
    points = [(0.25, 1.0), (0.75, 0.0)]
    assert [weight_at(points, share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert weight_at(0.3, 0.9) == 0.3


def test_a_weights_schedule_follows_the_share_of_the_training(scheduler):
    loss = distillation(scheduler, feature_weight=[[0, 1.0], [1, 0.0]])
    assert loss(Toy(1.0), BATCH | {"share": 0.25})["loss"].item() == 4 + 0.5 * 2.5 + 0.75 * 10
    assert loss(Toy(1.0), BATCH)["loss"].item() == 4 + 0.5 * 2.5  # measured as at the end


def test_min_snr_weighs_task_and_output_but_not_what_is_told(scheduler):
    schedule = DDPMScheduler(num_train_timesteps=2, trained_betas=[0.1, 0.5], prediction_type="epsilon")
    # Signal after step 0: 0.9, so SNR 9; min-SNR with gamma 3 weighs 3 / 9.
    plain = distillation(schedule)(Toy(1.0), BATCH)
    weighed = distillation(schedule, snr_gamma=3.0)(Toy(1.0), BATCH)
    assert weighed["task"].item() == plain["task"].item() and weighed["output"].item() == plain["output"].item()
    expected = (plain["task"] + 0.5 * plain["output"]) / 3 + 0.25 * plain["feature/inner"]
    assert weighed["loss"].item() == pytest.approx(expected.item())


def test_of_a_batch_that_is_measured_again_the_teacher_is_not_asked_again(scheduler):
    loss, asked = distillation(scheduler), []
    loss.teacher.register_forward_hook(lambda *given: asked.append(1))
    student, others = Toy(1.0).eval(), BATCH | {"noise": BATCH["noise"] + 1}
    first, again = loss(student, BATCH), loss(student, {name: value.clone() for name, value in BATCH.items()})
    assert first == again and len(asked) == 1
    assert loss(Toy(3.0).eval(), BATCH)["output"].item() == (1**2 + 2**2) / 2  # the teacher's (2, 4) and (3, 6)
    assert len(asked) == 1
    assert loss(student, others)["task"].item() != first["task"].item() and len(asked) == 2
    loss(student.train(), BATCH)
    loss(student, BATCH)
    assert len(asked) == 4  # batches of a training never come again


def test_min_snr_that_leaves_the_last_timestep_out_is_warned_of():
    bare = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with pytest.warns(UserWarning, match="snr_gamma: nothing is left of the signal at the teacher's last timestep"):
        DiffusionLoss(bare, 5.0)
    DiffusionLoss(bare)
    DiffusionLoss(DDPMScheduler(prediction_type="v_prediction"), 5.0)


def test_a_teacher_without_weight_is_left_alone_in_training_and_measured_otherwise(scheduler):
    loss, student = distillation(scheduler, output_weight=0, feature_weight=0), Toy(1.0)
    loss.teacher.forward = None  # calling it fails
    assert set(loss(student, BATCH)) == {"loss", "task"}
    del loss.teacher.forward
    assert set(loss(student.eval(), BATCH)) == {"loss", "task", "output", "feature/inner"}


def test_terms_of_equal_parts_average_to_the_wholes(scheduler, noise):
    batch = {
        "latents": noise(4, 1, 1, 2),
        "noise": noise(4, 1, 1, 2),
        "timesteps": torch.tensor([0, 1, 1, 0]),
        "states": torch.zeros(4, 1, 1),
    }
    loss = distillation(scheduler, feature_normalization="teacher", snr_gamma=0.7)
    whole = loss(Toy(1.0), batch)
    parts = [loss(Toy(1.0), {name: value[half] for name, value in batch.items()}) for half in (slice(2), slice(2, 4))]
    for name, value in whole.items():
        assert value.item() == pytest.approx((parts[0][name] + parts[1][name]).item() / 2, rel=1e-5)
