import pytest
import torch
from torch import nn

from prunella.compute.device import Placement, apply_placement, make_placement
from prunella.params import Runtime


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [("auto", "cpu", False), ("auto", "cuda:1", True), (True, "cpu", True), (False, "cuda", False)],
)
def test_auto_is_for_a_gpu(asked, device, expected):
    rest = {"engine": "local", "device": "auto", "processes": 1, "workers": 0, "threads": 0, "micro_batch": "auto"}
    rest["fsdp"] = False
    runtime = Runtime(compile=asked, channels_last=asked, **rest)
    assert make_placement(runtime, device) == Placement(device, expected, expected)


def test_channels_last_is_the_layout_of_convolutions():
    model = nn.Conv2d(3, 5, 3)
    with apply_placement(model, [], Placement("cpu", channels_last=True)):
        assert model.weight.is_contiguous(memory_format=torch.channels_last)
