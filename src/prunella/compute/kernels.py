"""The choice of a GPU's kernels: those that are fastest for shapes that come again and again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HOPPER_CAPABILITY = (9, 0)  # compute capability of H100 and H200
# torch's own order never comes to cuDNN, whose kernels alone use what is new in Hopper, forward and backward; it lacks
# some widths of heads, for which the next is taken.
ATTENTION_BACKENDS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]


@contextmanager
def use_fast_kernels(device: torch.device) -> Iterator[None]:
    """Inside, a GPU takes the fastest of cuDNN's convolutions, tried once a shape, and Hopper its own attention."""
    if device.type != "cuda":
        yield
        return
    hopper = torch.cuda.get_device_capability(device) == HOPPER_CAPABILITY
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        with sdpa_kernel(ATTENTION_BACKENDS, set_priority=True) if hopper else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before
