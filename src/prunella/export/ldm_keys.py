"""Names and shapes of the original layout of Stable Diffusion checkpoints, for the parts of a diffusers pipeline.

The layout is CompVis' latent diffusion with the text encoders of CLIP (SD 1.x) or OpenCLIP (SD 2.x), and Stability's
generative-models for SDXL: what `*.safetensors` files of one checkpoint hold, and what ComfyUI and others read. Input
blocks are numbered through: the first convolution, then each stage's resnets and its downsampler; output blocks are
the up stages' resnets, the last of a stage with its upsampler. So a student with fewer resnets has other numbers than
its teacher, and with a teacher's fixed count of two a stage its blocks would go to the wrong places.
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from prunella.models.families.base import CROSS

UNET, VAE = "model.diffusion_model", "first_stage_model"
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
# Modules of the UNet that are in no stage.
OUTER = {
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
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}  # the VAE's
OPEN_CLIP = (
    ("embeddings.token_embedding.weight", "token_embedding.weight"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("final_layer_norm", "ln_final"),
    ("encoder.layers.", "transformer.resblocks."),
    ("self_attn", "attn"),
    ("layer_norm", "ln_"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def original(pipeline: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a Stable Diffusion pipeline's UNet, VAE and text encoders in the original layout."""
    places = unet_places(pipeline.unet.config)
    for key, value in pipeline.unet.state_dict().items():
        yield f"{UNET}.{unet_name(key, places)}", value
    stages = len(pipeline.vae.config.block_out_channels)
    for key, value in pipeline.vae.state_dict().items():
        name = _vae_name(key, stages)
        linear = ".attn_1." in name and value.ndim == 2  # of a 1×1 convolution in the original
        yield f"{VAE}.{name}", value[..., None, None] if linear else value
    second = getattr(pipeline, "text_encoder_2", None)
    if second is not None:
        yield from _clip("conditioner.embedders.0", pipeline.text_encoder)
        yield from open_clip("conditioner.embedders.1", second)
    elif pipeline.unet.config.use_linear_projection:  # as SD 2.x has, and 1.x has not
        yield from open_clip("cond_stage_model", pipeline.text_encoder)
    else:
        yield from _clip("cond_stage_model", pipeline.text_encoder)


def unet_places(config: Any) -> dict[str, str]:
    """Module of the UNet → its place in the original layout, for all resnets, attentions and samplers."""
    stages = len(config["down_block_types"])
    counts = config["layers_per_block"]
    counts = [counts] * stages if isinstance(counts, int) else list(counts)
    places, number = dict(OUTER), 1
    for stage, count in enumerate(counts):
        for i in range(count):
            places[f"down_blocks.{stage}.resnets.{i}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{stage}.attentions.{i}"] = f"input_blocks.{number}.1"
            number += 1
        if stage < stages - 1:
            places[f"down_blocks.{stage}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for stage, count in enumerate(reversed(counts)):
        for i in range(count + 1):
            places[f"up_blocks.{stage}.resnets.{i}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{stage}.attentions.{i}"] = f"output_blocks.{number}.1"
            number += 1
        after = 2 if config["up_block_types"][stage] == CROSS.replace("Down", "Up") else 1
        places[f"up_blocks.{stage}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{after}.conv"
    return places


def unet_name(key: str, places: dict[str, str]) -> str:
    """The original name of a UNet's tensor. Raises KeyError for a module that the layout has no place for."""
    parts = key.split(".")
    module = next(".".join(parts[:i]) for i in range(len(parts) - 1, 0, -1) if ".".join(parts[:i]) in places)
    rest = key.removeprefix(module + ".")
    inner, _, kind = rest.rpartition(".")
    if ".resnets." in key:
        rest = f"{RESNET[inner]}.{kind}"
    return f"{places[module]}.{rest}"


def _vae_name(key: str, stages: int) -> str:
    key = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{stages - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{stages - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        way, _, inner = key.partition("mid_block.attentions.0.")
        part, _, kind = inner.rpartition(".")
        key = f"{way}mid.attn_1.{ATTENTION[part]}.{kind}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _clip(place: str, encoder: Any) -> Iterator[tuple[str, Tensor]]:
    for key, value in encoder.state_dict().items():
        yield f"{place}.transformer.text_model.{key.removeprefix('text_model.')}", value


def open_clip(place: str, encoder: Any) -> Iterator[tuple[str, Tensor]]:
    """By OpenCLIP's names: queries, keys and values in one tensor, the projection turned."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    for key, value in state.items():
        if key == "text_projection.weight":
            yield f"{place}.model.text_projection", value.T
        elif ".q_proj." in key:
            whole = torch.cat([state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
            yield f"{place}.model.{_open_clip_name(key).replace('q_proj.', 'in_proj_')}", whole
        elif ".k_proj." not in key and ".v_proj." not in key:
            yield f"{place}.model.{_open_clip_name(key)}", value


def _open_clip_name(key: str) -> str:
    for theirs, name in OPEN_CLIP:
        key = key.replace(theirs, name)
    return key
