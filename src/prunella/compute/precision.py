"""Computing in fewer bits."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from prunella.params import Precision

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision, *, cache_weights: bool = True) -> torch.autocast:
    """Inside a forward pass, matrix products and convolutions run in bf16 or fp16; otherwise nothing changes.

    Unless `cache_weights`, what a weight is cast to is let go of with the weight, and not kept until the end.
    """
    return torch.autocast(
        device.type, AUTOCAST_DTYPES.get(precision), enabled=precision in AUTOCAST_DTYPES, cache_enabled=cache_weights
    )


@contextmanager
def tf32_context(precision: Precision) -> Iterator[None]:
    """Inside, a GPU may round fp32 inputs of matrix products and convolutions to TF32 if `precision` is tf32.

    Around forward and backward alike, since it is looked at when a product is computed. torch's own default rounds
    in convolutions and not in matrix products.
    """
    backends: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    previous = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        for backend, allowed in zip(backends, previous, strict=True):
            backend.allow_tf32 = allowed


@contextmanager
def model_precision(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Inside, the model computes in `precision`, wherever it is called from, and what calls it does not."""
    original_forward, device = model.forward, next(model.parameters()).device

    def autocast_forward(*inputs: Any, **kwargs: Any) -> Any:
        with autocast(device, precision):
            return original_forward(*inputs, **kwargs)

    model.forward = autocast_forward
    try:
        with tf32_context(precision):
            yield
    finally:
        del model.forward
