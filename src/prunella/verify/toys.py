"""Toys: random teachers of both families and a few pictures, on which every stage runs in about a second.

The sizes are awkward on purpose: no two are alike, batches do not divide the pairs, latents end at 1×1.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from prunella.scenes import tokenizer
from prunella.scenes.generator import Vocabulary, read_vocabulary, render_sample

IMAGE_SIZE, LATENT_SIZE, MAX_TOKENS, TEXT_WIDTHS, POOLED_WIDTH, NUM_IMAGES = 32, 8, 19, (16, 24), 20, 13


class Toy(NamedTuple):
    """A teacher, a student of its family, and what its parameters change of all toys' ones."""

    teacher: str
    student: str
    changes: dict[str, dict[str, Any]]


TOYS = {
    "sd": Toy("sd", "sd-tiny", {}),
    "sdxl": Toy("sdxl", "segmind-vega", {}),
    "buckets": Toy(
        "sd",
        "sd-tiny",
        {
            "encode": {"buckets": "computed", "resolution": 96, "max_upscale": 4.0},  # the smallest with several
            "distill": {"snr_gamma": 5.0, "noise_offset": 0.05},
            "finetune": {"snr_gamma": 5.0, "noise_offset": 0.05},
        },
    ),
    "tokens": Toy(
        "sd",
        "sd-small",
        {
            "filter": {"min_contrast": 2.0, "near_duplicates": 4},
            "encode": {"text": "tokens", "storage": "fp16"},
            "distill": {"features": "sub-block", "feature_normalization": "none", "ema_decay": 0.9},
        },
    ),
    "accumulation": Toy(
        "sd",
        "sd-tiny",
        {
            "distill": {
                "gradient_accumulation_steps": 2,
                "lr_scheduler": "cosine",
                "feature_weight": [[0.0, 1.0], [1.0, 0.25]],
            },
            "finetune": {"gradient_accumulation_steps": 2, "lr_scheduler": "cosine"},
        },
    ),
}
# The toys that a stage can tell apart; the trainings tell all.
TOYS_OF_STAGE = {
    "filter": ("sd", "tokens"),
    "encode": ("sd", "sdxl", "buckets", "tokens"),
    "prune": ("sd", "sdxl", "tokens"),
    "distill": tuple(TOYS),
    "finetune": tuple(TOYS),
}
DEFAULT_TOYS = ("sd", "sdxl")

TRAINING_PARAMS: dict[str, Any] = {
    "steps": 2,
    "batch_size": 3,
    "gradient_accumulation_steps": 1,
    "lr_warmup_steps": 1,
    "lr_scheduler": "constant",
}
TRAINING_PARAMS |= {
    "evaluate_every": 1,
    "ema_decay": 0.0,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "optimizer": "adamw",
}
SMALL_PARAMS: dict[str, dict[str, Any]] = {
    "teacher": {"source": "folder"},
    "filter": {"source": "folder", "samples": NUM_IMAGES, "min_side": 16, "near_duplicates": None},
    "encode": {"resolution": IMAGE_SIZE, "batch_size": 4, "heldout": 3, "shard_size": 6, "precision": "fp32"},
    "distill": TRAINING_PARAMS,
    "finetune": TRAINING_PARAMS | {"caption_keywords": []},
    "benchmark": {"prompts": 2, "num_inference_steps": 2, "batch_size": 2, "latency_rounds": 1, "precision": "fp32"},
    "watch": {"prompts": 1, "num_inference_steps": 1},
    "runtime": {"device": "cpu", "processes": 1, "workers": 1, "threads": 1, "compile": False},
}


def build_toy_params(toy: Toy, shared: Path, defaults: dict[str, Any]) -> dict[str, Any]:
    """The whole parameter file of a toy, whose teacher and pictures are in `shared`."""
    content: dict[str, Any] = {**defaults, "students": [toy.student]}
    for changes in (SMALL_PARAMS, toy.changes):
        for section, values in changes.items():
            content[section] = {**content[section], **values}
    content["teacher"] = {**content["teacher"], "path": str(shared / toy.teacher)}
    content["filter"] = {**content["filter"], "path": str(shared / "pictures")}
    return content


def write_toys(folder: Path, scenes: Path) -> None:
    """The teachers `sd` and `sdxl` and the `pictures`, drawn with the words of `scenes`."""
    vocabulary = read_vocabulary(scenes)
    _write_images(folder / "pictures", vocabulary)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        _write_sd(folder / "sd", vocabulary)
        _write_sdxl(folder / "sdxl", vocabulary)


def _write_images(folder: Path, vocabulary: Vocabulary) -> None:
    """Captioned pictures of several sizes and proportions."""
    folder.mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w", encoding="utf-8") as listing:
        for i in range(NUM_IMAGES):
            text, pixels = render_sample(vocabulary, 5, i)
            Image.fromarray(pixels).resize((40 + 5 * i, 50)).save(folder / f"{i}.png")
            listing.write(json.dumps({"file_name": f"{i}.png", "text": text}) + "\n")


def _write_sd(folder: Path, vocabulary: Vocabulary) -> None:
    clip_tokenizer = tokenizer.build_tokenizer(vocabulary, MAX_TOKENS)
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=TEXT_WIDTHS[0],
    )
    StableDiffusionPipeline(
        vae=_make_vae(),
        text_encoder=CLIPTextModel(_make_text_config(clip_tokenizer, TEXT_WIDTHS[0])),
        tokenizer=clip_tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _write_sdxl(folder: Path, vocabulary: Vocabulary) -> None:
    clip_tokenizer = tokenizer.build_tokenizer(vocabulary, MAX_TOKENS)
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 8, 16),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2, 10),  # as SDXL's, which decide its family
        norm_num_groups=4,
        attention_head_dim=(1, 2, 4),
        use_linear_projection=True,
        cross_attention_dim=sum(TEXT_WIDTHS),
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 6,
    )
    StableDiffusionXLPipeline(
        vae=_make_vae(),
        text_encoder=CLIPTextModel(_make_text_config(clip_tokenizer, TEXT_WIDTHS[0])),
        text_encoder_2=CLIPTextModelWithProjection(_make_text_config(clip_tokenizer, TEXT_WIDTHS[1])),
        tokenizer=clip_tokenizer,
        tokenizer_2=clip_tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        add_watermarker=False,
    ).save_pretrained(folder)


def _make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
    )


def _make_text_config(clip_tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        vocab_size=len(clip_tokenizer),
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=POOLED_WIDTH,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
