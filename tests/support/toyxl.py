"""A toy SDXL teacher with random weights: every part that SDXL has, at awkward sizes."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from known import SDXL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from prunella.scenes import tokenizer

TOKENS, WIDTHS, POOLED = 19, (24, 32), 20
# Depths as SDXL has them, for they decide its family; the rest as small as it goes.
UNET = SDXL | {
    "sample_size": 8,
    "block_out_channels": [8, 16, 32],
    "norm_num_groups": 4,
    "attention_head_dim": [1, 2, 4],
    "cross_attention_dim": sum(WIDTHS),
    "addition_time_embed_dim": 6,
    "projection_class_embeddings_input_dim": POOLED + 6 * 6,
}


def written(folder: Path, vocabulary) -> Path:
    """The teacher as a pipeline folder."""
    torch.manual_seed(3)
    words = tokenizer.build_tokenizer(vocabulary, TOKENS)
    text = {
        "vocab_size": len(words),
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": POOLED,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        scaling_factor=0.13025,
        force_upcast=True,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=WIDTHS[0], **text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=WIDTHS[1], **text)),
        tokenizer=words,
        tokenizer_2=words,
        unet=UNet2DConditionModel.from_config(UNET),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder)
    return folder
