import pytest
import torch
from torch import nn

from prunella.training.feature_capture import capture_outputs


class Sample(nn.Module):
    def forward(self, x):
        return x + 1, "skips"


def test_outputs_are_caught_and_the_first_of_a_tuple_taken():
    model = nn.Sequential(nn.Identity(), nn.Sequential(Sample()))
    with capture_outputs(model, ["0", "1.0"]) as seen:
        model(torch.zeros(2))
    assert {name: value.tolist() for name, value in seen.items()} == {"0": [0, 0], "1.0": [1, 1]}


def hooks(model) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_nothing_stays_hooked_even_after_an_error():
    model = nn.Sequential(nn.Identity())
    with pytest.raises(RuntimeError, match="midway"), capture_outputs(model, ["0"]):
        assert hooks(model) == 1
        raise RuntimeError("midway")
    assert hooks(model) == 0
    with pytest.raises(AttributeError), capture_outputs(model, ["0", "absent"]):
        pass
    assert hooks(model) == 0
