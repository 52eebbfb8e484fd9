"""Whether a teacher can go on where another has ended: on the same latents, texts and noise."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.models.families import blocks, family
from prunella.models.fingerprint import latent_space, text_space
from prunella.models.pipeline import load_scheduler

SHAPE = ("in_channels", "out_channels", "block_out_channels", "cross_attention_dim", "attention_head_dim")


def apart(first: Path, further: Path) -> str:
    """Why predictions of the pipeline folders' UNets cannot be compared, in words; "" where they can."""
    return " and ".join(_spaces(first, further))


def check_alike(first: Path, further: Path) -> None:
    """Raises UserError, all reasons in one line, where the pipeline folder `further` cannot follow `first`."""
    if reasons := list(_differences(first, further)):
        raise UserError(
            f"cannot follow the first teacher, whose latents and texts are learned from: it has {' and '.join(reasons)}"
        )


def _differences(first: Path, further: Path) -> Iterator[str]:
    ours, theirs = (UNet2DConditionModel.load_config(folder / "unet") for folder in (first, further))
    if family(ours) != family(theirs):
        yield f"a UNet of {_kind(theirs)}, not {_kind(ours)}"
    elif family(ours) is None and blocks(ours) != blocks(theirs):
        yield "a UNet of another student's layout"
    elif other := [name for name in SHAPE if ours.get(name) != theirs.get(name)]:
        yield f"{other[0]} {theirs.get(other[0])}, not {ours.get(other[0])}"
    yield from _spaces(first, further)


def _spaces(first: Path, further: Path) -> Iterator[str]:
    one, two = load_scheduler(first), load_scheduler(further)
    if one.config.prediction_type != two.config.prediction_type:
        yield f"prediction_type {two.config.prediction_type}, not {one.config.prediction_type}"
    if not torch.equal(one.alphas_cumprod, two.alphas_cumprod):
        yield "another noise schedule"
    if latent_space(first) != latent_space(further):
        yield "another VAE"
    if text_space(first) != text_space(further):
        yield "other text encoders"


def _kind(config: Mapping[str, Any]) -> str:
    return f"family {kind}" if (kind := family(config)) else "a student"
