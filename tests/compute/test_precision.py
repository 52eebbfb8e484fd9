import pytest
import torch
from torch import nn

from prunella.compute.precision import autocast, model_precision, tf32_context

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_matrix_products_run_in_the_precision_asked_for(precision, dtype):
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_tf32_is_allowed_inside_and_only_there():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for precision, allowed in (("tf32", True), ("fp32", False)):
        with tf32_context(precision):
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
        assert [backend.allow_tf32 for backend in backends] == before


def test_a_model_computes_in_its_precision_and_its_caller_does_not():
    model = nn.Linear(2, 2)
    with model_precision(model, "bf16"):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert model(torch.ones(1, 2)).dtype == torch.float32 and "forward" not in vars(model)
