"""Names and shapes of the original layout of Stable Diffusion checkpoints, for the parts of a diffusers pipeline.

The layout is CompVis' latent diffusion with the text encoders of CLIP (SD 1.x) or OpenCLIP (SD 2.x), and Stability's
generative-models for SDXL: what `*.safetensors` files of one checkpoint hold, and what ComfyUI and others read. Input
blocks are numbered through: the first convolution, then each stage's resnets and its downsampler; output blocks are the
up stages' resnets, the last of a stage with its upsampler. Therefore a student with fewer resnets has other numbers
than its teacher, and with a teacher's fixed count of two a stage its blocks would go to the wrong places.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from prunella.models.families.base import CROSS_DOWN

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model", "first_stage_model"
RESNET_NAMES = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# Modules of the UNet that are in no stage.
OUTER_MODULES = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
VAE_ATTENTION_NAMES = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}  # the VAE's
OPEN_CLIP_NAMES = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("self_attn", "attn"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def iter_ldm_tensors(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a Stable Diffusion pipeline's UNet, VAE and text encoders in the original layout."""
    key_map = unet_key_map(pipeline.unet.config)
    for key, value in pipeline.unet.state_dict().items():
        yield f"{UNET_PREFIX}.{ldm_unet_name(key, key_map)}", value
    num_stages = len(pipeline.vae.config.block_out_channels)
    for key, value in pipeline.vae.state_dict().items():
        name = _ldm_vae_name(key, num_stages)
        is_linear = ".attn_1." in name and value.ndim == 2  # of a 1×1 convolution in the original
        yield f"{VAE_PREFIX}.{name}", value[..., None, None] if is_linear else value
    second_encoder = getattr(pipeline, "text_encoder_2", None)
    if second_encoder is not None:
        yield from _iter_clip_tensors("conditioner.embedders.0", pipeline.text_encoder)
        yield from iter_open_clip_tensors("conditioner.embedders.1", second_encoder)
    elif pipeline.unet.config.use_linear_projection:  # as SD 2.x has, and 1.x has not
        yield from iter_open_clip_tensors("cond_stage_model", pipeline.text_encoder)
    else:
        yield from _iter_clip_tensors("cond_stage_model", pipeline.text_encoder)


def unet_key_map(config: Any) -> dict[str, str]:
    """Module of the UNet → its place in the original layout, for all resnets, attentions and samplers."""
    num_stages = len(config["down_block_types"])
    counts = config["layers_per_block"]
    counts = [counts] * num_stages if isinstance(counts, int) else list(counts)
    key_map, block_number = dict(OUTER_MODULES), 1
    for stage, count in enumerate(counts):
        for i in range(count):
            key_map[f"down_blocks.{stage}.resnets.{i}"] = f"input_blocks.{block_number}.0"
            key_map[f"down_blocks.{stage}.attentions.{i}"] = f"input_blocks.{block_number}.1"
            block_number += 1
        if stage < num_stages - 1:
            key_map[f"down_blocks.{stage}.downsamplers.0.conv"] = f"input_blocks.{block_number}.0.op"
            block_number += 1
    block_number = 0
    for stage, count in enumerate(reversed(counts)):
        for i in range(count + 1):
            key_map[f"up_blocks.{stage}.resnets.{i}"] = f"output_blocks.{block_number}.0"
            key_map[f"up_blocks.{stage}.attentions.{i}"] = f"output_blocks.{block_number}.1"
            block_number += 1
        sampler_index = 2 if config["up_block_types"][stage] == CROSS_DOWN.replace("Down", "Up") else 1
        key_map[f"up_blocks.{stage}.upsamplers.0.conv"] = f"output_blocks.{block_number - 1}.{sampler_index}.conv"
    return key_map


def ldm_unet_name(key: str, key_map: dict[str, str]) -> str:
    """The original name of a UNet's tensor. Raises KeyError for a module that the layout has no place for."""
    parts = key.split(".")
    module = next(".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1) if ".".join(parts[:i]) in key_map)
    local_name = key.removeprefix(module + ".")
    submodule, _, tensor_name = local_name.rpartition(".")
    if ".resnets." in key:
        local_name = f"{RESNET_NAMES[submodule]}.{tensor_name}"
    return f"{key_map[module]}.{local_name}"


def _ldm_vae_name(key: str, num_stages: int) -> str:
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{num_stages - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{num_stages - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        direction, _, attention_key = key.partition("mid_block.attentions.0.")
        submodule, _, tensor_name = attention_key.rpartition(".")
        key = f"{direction}mid.attn_1.{VAE_ATTENTION_NAMES[submodule]}.{tensor_name}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _iter_clip_tensors(prefix: str, encoder: Any) -> Iterator[tuple[str, Tensor]]:
    for key, value in encoder.state_dict().items():
        yield f"{prefix}.transformer.text_model.{key.removeprefix('text_model.')}", value


def iter_open_clip_tensors(prefix: str, encoder: Any) -> Iterator[tuple[str, Tensor]]:
    """By OpenCLIP's names: queries, keys and values in one tensor, the projection turned."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    for key, value in state.items():
        if key == "text_projection.weight":
            yield f"{prefix}.model.text_projection", value.T
        elif ".q_proj." in key:
            joined = torch.cat([state[key.replace(".q_proj.", f".{projection}_proj.")] for projection in "qkv"])
            yield f"{prefix}.model.{_to_open_clip_name(key).replace('q_proj.', 'in_proj_')}", joined
        elif ".k_proj." not in key and ".v_proj." not in key:
            yield f"{prefix}.model.{_to_open_clip_name(key)}", value


def _to_open_clip_name(key: str) -> str:
    for clip_name, open_clip_name in OPEN_CLIP_NAMES:
        key = key.replace(clip_name, open_clip_name)
    return key
