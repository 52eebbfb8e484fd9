"""Computing in fewer bits: a context in which matrix products and convolutions run in `precision`."""

import torch

from prunella.params import Precision

BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Autocast to bf16 or fp16; for fp32 a context that changes nothing."""
    return torch.autocast(device.type, BITS.get(precision), enabled=precision in BITS)
