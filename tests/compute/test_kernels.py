import pytest
import torch

from prunella.compute.kernels import use_fast_kernels


def order() -> list[int]:
    return torch._C._get_sdp_priority_order()


@pytest.mark.parametrize(("capability", "first"), [((9, 0), "CUDNN_ATTENTION"), ((8, 0), None), ((10, 0), None)])
def test_hopper_takes_cudnns_attention_and_every_gpu_tries_its_convolutions(monkeypatch, capability, first):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    before, benchmark = order(), torch.backends.cudnn.benchmark
    with use_fast_kernels(torch.device("cuda")):
        assert order()[0] == (int(getattr(torch.nn.attention.SDPBackend, first)) if first else before[0])
        assert torch.backends.cudnn.benchmark
    assert order() == before and torch.backends.cudnn.benchmark == benchmark


def test_a_cpu_is_left_alone():
    before = order()
    with use_fast_kernels(torch.device("cpu")):
        assert order() == before and not torch.backends.cudnn.benchmark
