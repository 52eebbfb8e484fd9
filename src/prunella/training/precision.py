"""Computing in fewer bits: a context in which matrix products and convolutions run in `precision`."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prunella.params import Precision

BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Autocast to bf16 or fp16; tf32 lets a GPU round fp32 inputs of matrix products; fp32 changes nothing."""
    with torch.autocast(device.type, BITS.get(precision), enabled=precision in BITS), _tf32(precision == "tf32"):
        yield


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = allowed
    try:
        yield
    finally:
        for backend, was in zip(backends, before, strict=True):
            backend.allow_tf32 = was
