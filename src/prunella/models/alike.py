"""Whether a teacher can go on where another has ended: on the same latents, texts and noise."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from prunella.errors import UserError
from prunella.models.families import count_transformer_layers, detect_teacher_family
from prunella.models.fingerprint import text_encoder_fingerprint, vae_fingerprint
from prunella.models.pipeline import load_scheduler

SHAPE_KEYS = ("in_channels", "out_channels", "block_out_channels", "cross_attention_dim", "attention_head_dim")


def describe_incompatibilities(first: Path, other: Path) -> str:
    """Why predictions of the pipeline folders' UNets cannot be compared, in words; "" where they can."""
    return " and ".join(_find_input_differences(first, other))


def check_same_inputs(first: Path, other: Path) -> None:
    """Raises UserError, all reasons in one line, where the pipeline folder `other` cannot follow `first`."""
    if reasons := list(_find_teacher_differences(first, other)):
        raise UserError(
            f"cannot follow the first teacher, whose latents and texts are learned from: it has {' and '.join(reasons)}"
        )


def _find_teacher_differences(first: Path, other: Path) -> Iterator[str]:
    first_config, other_config = (UNet2DConditionModel.load_config(folder / "unet") for folder in (first, other))
    if detect_teacher_family(first_config) != detect_teacher_family(other_config):
        yield f"a UNet of {_describe_unet_kind(other_config)}, not {_describe_unet_kind(first_config)}"
    elif detect_teacher_family(first_config) is None and count_transformer_layers(
        first_config
    ) != count_transformer_layers(other_config):
        yield "a UNet of another student's layout"
    elif differing := [name for name in SHAPE_KEYS if first_config.get(name) != other_config.get(name)]:
        yield f"{differing[0]} {other_config.get(differing[0])}, not {first_config.get(differing[0])}"
    yield from _find_input_differences(first, other)


def _find_input_differences(first: Path, other: Path) -> Iterator[str]:
    first_scheduler, other_scheduler = load_scheduler(first), load_scheduler(other)
    if first_scheduler.config.prediction_type != other_scheduler.config.prediction_type:
        yield f"prediction_type {other_scheduler.config.prediction_type}, not {first_scheduler.config.prediction_type}"
    if not torch.equal(first_scheduler.alphas_cumprod, other_scheduler.alphas_cumprod):
        yield "another noise schedule"
    if vae_fingerprint(first) != vae_fingerprint(other):
        yield "another VAE"
    if text_encoder_fingerprint(first) != text_encoder_fingerprint(other):
        yield "other text encoders"


def _describe_unet_kind(config: Mapping[str, Any]) -> str:
    return f"family {kind}" if (kind := detect_teacher_family(config)) else "a student"
