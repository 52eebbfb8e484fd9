"""LoRAs with random numbers, written in every layout that is read."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn

RANK, ALPHA = 3, 6.0  # a scale of 2
ATTENTION = "down_blocks.0.attentions.1.transformer_blocks.0"
# Modules of every kind; the first four have no counterpart in sd-tiny.
MODULES = (
    f"{ATTENTION}.attn1.to_q", f"{ATTENTION}.attn2.to_out.0", "mid_block.attentions.0.proj_in",
    "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.0.proj", "up_blocks.3.resnets.2.conv1",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", "down_blocks.1.attentions.0.proj_out",
    "down_blocks.1.resnets.0.conv_shortcut", "down_blocks.1.resnets.0.time_emb_proj",
    "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_v", "down_blocks.0.downsamplers.0.conv", "conv_in",
    "time_embedding.linear_2",
)  # fmt: skip


def matrices(unet: UNet2DConditionModel, modules: tuple[str, ...] = MODULES, rank: int = RANK) -> dict[str, tuple]:
    """Module → (down, up) of random numbers, in the shapes that its weight asks for."""
    source, made = torch.Generator().manual_seed(0), {}
    for name in modules:
        module = unet.get_submodule(name)
        wide, high, *kernel = reversed(module.weight.shape[:2])
        if isinstance(module, nn.Conv2d):
            kernel = list(module.weight.shape[2:])
        ones = [1] * len(kernel)
        down = torch.randn(rank, wide, *kernel, generator=source) * 0.1
        made[name] = (down, torch.randn(high, rank, *ones, generator=source) * 0.1)
    return made


def diffusers(folder: Path, made: dict[str, tuple]) -> Path:
    """As diffusers writes them today: rank and alpha in the file's metadata."""
    tensors = {f"unet.{name}.lora_{kind}.weight": pair[i] for name, pair in made.items() for i, kind in enumerate("AB")}
    noted = {"unet.r": RANK, "unet.lora_alpha": ALPHA, "unet.alpha_pattern": {}, "unet.rank_pattern": {}}
    noted |= {"unet.target_modules": list(made), "unet.use_rslora": False}
    save_file(tensors, folder / "diffusers.safetensors", {"format": "pt", "lora_adapter_metadata": json.dumps(noted)})
    return folder / "diffusers.safetensors"


def older(folder: Path, made: dict[str, tuple]) -> Path:
    """As diffusers wrote them before: without an alpha, so the scale is in the matrix."""
    tensors = {}
    for name, (down, up) in made.items():
        tensors |= {f"unet.{name}.lora.down.weight": down, f"unet.{name}.lora.up.weight": up * ALPHA / RANK}
    save_file(tensors, folder / "older.safetensors")
    return folder / "older.safetensors"


def peft(folder: Path, made: dict[str, tuple]) -> Path:
    """As `PeftModel.save_pretrained` does."""
    folder = folder / "peft"
    folder.mkdir()
    names = {f"base_model.model.{name}.lora_{kind}.weight": pair[i]
             for name, pair in made.items() for i, kind in enumerate("AB")}  # fmt: skip
    save_file(names, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA, "use_rslora": False}))
    return folder / "adapter_model.safetensors"


def kohya(folder: Path, made: dict[str, tuple], names: dict[str, str] | None = None) -> Path:
    """As sd-scripts does; `names` of modules where it has the original's blocks."""
    tensors = {}
    for name, (down, up) in made.items():
        stem = f"lora_unet_{(names or {}).get(name, name).replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    save_file(tensors, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"
