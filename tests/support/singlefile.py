"""The original layout of a checkpoint (SD 1.x, 2.x, SDXL), all parts in one state dict, from a diffusers pipeline."""

import re

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
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
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def single(pipeline, two: bool = False) -> dict[str, Tensor]:
    """`two`: of an SD pipeline in the layout of SD 2.x, whose text encoder is OpenCLIP's."""
    stages = len(pipeline.vae.config.block_out_channels)
    attended = [block == "CrossAttnUpBlock2D" for block in pipeline.unet.config.up_block_types]
    state = {}
    for key, value in pipeline.unet.state_dict().items():
        state[f"model.diffusion_model.{_unet(key, attended)}"] = value.contiguous()
    for key, value in pipeline.vae.state_dict().items():
        name = _vae(key, stages)
        linear = ".attn_1." in name and name.endswith(".weight") and ".norm." not in name
        state[f"first_stage_model.{name}"] = (value[..., None, None] if linear else value).contiguous()
    if two:
        named = open_clip(pipeline.text_encoder).items()
        return state | {f"cond_stage_model.model.{key}": value.contiguous() for key, value in named}
    second = getattr(pipeline, "text_encoder_2", None)
    place = "cond_stage_model" if second is None else "conditioner.embedders.0"
    for key, value in pipeline.text_encoder.state_dict().items():
        state[f"{place}.transformer.text_model.{key.removeprefix('text_model.')}"] = value.contiguous()
    if second is not None:
        for key, value in open_clip(second).items():
            state[f"conditioner.embedders.1.model.{key}"] = value.contiguous()
    return state


def open_clip(encoder) -> dict[str, Tensor]:
    """A CLIP text encoder's state by OpenCLIP's names: queries, keys and values in one, the projection turned."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    names = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    made = {}
    for key, value in state.items():
        if key == "text_projection.weight":
            made["text_projection"] = value.T
        elif ".q_proj." in key:
            parts = [state[key.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            made[_open_clip(key).replace("q_proj.", "in_proj_")] = torch.cat(parts)
        elif not any(part in key for part in (".k_proj.", ".v_proj.")):
            made[names.get(key, _open_clip(key))] = value
    return made


def _open_clip(key: str) -> str:
    for old, new in (
        ("encoder.layers.", "transformer.resblocks."),
        ("self_attn", "attn"),
        ("layer_norm", "ln_"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
        ("final_ln_", "ln_final"),
    ):
        key = key.replace(old, new)
    return key


def _unet(key: str, attended: list[bool]) -> str:
    place = _stage(key, attended)
    for old, new in OUTER.items():
        if key.startswith(old + "."):
            place = new, key.removeprefix(old + ".")
    block, rest = place
    if "resnets" in key:
        inner, _, end = rest.rpartition(".")
        rest = f"{RESNET[inner]}.{end}"
    return f"{block}.{rest}"


def _stage(key: str, attended: list[bool]) -> tuple[str, str] | None:
    """Numbered through: three input blocks a down stage, after the first conv, and three output blocks an up stage."""
    if not (
        found := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", key)
    ):
        return None
    way, stage, kind, i, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * stage + 3}.0", rest.replace("conv", "op")
    if kind == "upsamplers":
        return f"output_blocks.{3 * stage + 2}.{1 + attended[stage]}", rest
    number = 3 * stage + i + (1 if way == "down" else 0)
    return f"{'input' if way == 'down' else 'output'}_blocks.{number}.{'0' if kind == 'resnets' else '1'}", rest


def _vae(key: str, stages: int) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{stages - 1 - int(m[1])}.block.{m[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{stages - 1 - int(m[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0." in key:
        part, _, end = key.partition("mid_block.attentions.0.")[2].rpartition(".")
        key = f"{key.partition('mid_block')[0]}mid.attn_1.{ATTENTION[part]}.{end}"
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
