"""Residual branches that start as nothing: what is trained from scratch learns sooner from a net that is nearly linear.

diffusers leaves these layers at random, since it is made to load trained weights; the code that Stable Diffusion was
trained with zeroes them (`zero_module`, CompVis/latent-diffusion).
"""

from torch import nn


def zero_init(model: nn.Module, *suffixes: str) -> None:
    """Set weight and bias of every layer whose dotted name ends in one of `endings` to zero."""
    for name, module in model.named_modules():
        if name.endswith(suffixes):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
