import pytest
import torch
from torch import nn

from prunella.errors import UserError
from prunella.training.trainable import TrainableState


def half_frozen() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 5, bias=False))
    model[0].requires_grad_(False)
    return model


def test_what_is_frozen_is_not_learned_and_buffers_are_kept():
    learned = TrainableState(half_frozen())
    assert learned.count() == 3 + 3 + 15
    buffers = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert set(learned.state_dict()) == {"1.weight", "1.bias", "2.weight"} | buffers


def test_of_a_model_that_learns_whole_it_is_all():
    model = nn.Linear(2, 3)
    assert [part.shape for part in TrainableState(model).parameters()] == [part.shape for part in model.parameters()]
    assert TrainableState(model).state_dict().keys() == model.state_dict().keys()


def test_a_state_comes_back_and_leaves_the_frozen_part_alone():
    torch.manual_seed(0)
    one, two = half_frozen(), half_frozen()
    before = two[0].weight.clone()
    TrainableState(two).load_state_dict(TrainableState(one).state_dict())
    assert torch.equal(one[2].weight, two[2].weight) and torch.equal(two[0].weight, before)
    assert not torch.equal(one[0].weight, two[0].weight)


def test_a_state_of_another_model_is_refused():
    with pytest.raises(UserError, match=r"a state of another model: 0\.bias \(2 in all\) is in only one of the two"):
        TrainableState(half_frozen()).load_state_dict(TrainableState(half_frozen().requires_grad_(True)).state_dict())
