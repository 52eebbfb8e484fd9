import torch

from prunella.training.precision import autocast


def test_products_run_in_the_asked_bits_on_the_cpu():
    a, cpu = torch.ones(2, 2), torch.device("cpu")
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        with autocast(cpu, precision):
            assert (a @ a).dtype == dtype
    assert (a @ a).dtype == torch.float32
