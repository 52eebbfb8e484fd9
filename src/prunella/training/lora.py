"""LoRA (Hu et al. 2021, arXiv 2106.09685) by peft: put on a model, taken into its weights, saved.

The saved file loads with `pipeline.load_lora_weights(folder)` onto the pipeline that the model was from.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import convert_state_dict_to_diffusers, recurse_remove_peft_layers
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from torch import nn

from prunella.compute.seeds import ADAPTER, make_generator
from prunella.errors import UserError
from prunella.models.families import family_of_unet
from prunella.params import Lora

ATTENTION_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj"]  # of a text encoder
FILE = "pytorch_lora_weights.safetensors"
NAME = "default"  # peft's and diffusers' own


def add_lora(model: Any, params: Lora, targets: list[str], seed: int) -> None:
    """Freeze `model`, a UNet or a text encoder, and put matrices that learn beside the modules of `targets`.

    They begin so that the model computes what it did. Raises UserError for a target that names no such module.
    """
    for target in targets:
        _check_target(model, target)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,
        lora_dropout=params.dropout,
        target_modules=targets,
        use_dora=params.dora,
        use_rslora=params.rslora,
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(make_generator(ADAPTER, seed).initial_seed())
        model.add_adapter(config, NAME)


def _check_target(model: nn.Module, target: str) -> None:
    """Raises UserError where no module that peft can adapt has a name that ends so."""
    matching = {name: module for name, module in model.named_modules() if name == target or name.endswith(f".{target}")}
    if not matching:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        ends = sorted({_layer_suffix(name) for name in linear})
        raise UserError(
            f"finetune.lora.target_modules: no module's name ends with {target!r}; there are: {', '.join(ends)}"
        )
    for name, module in matching.items():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise UserError(
                f"finetune.lora.target_modules: {target!r} names {name}, a {type(module).__name__}; linear layers and "
                "convolutions can have matrices beside them"
            )


def _layer_suffix(name: str) -> str:
    """The end of a module's name that tells what it does: with the name before it where that is but a number."""
    *before, last = name.split(".")
    return ".".join([*before[-1:], last]) if last.isdecimal() else last


def merge_lora(model: Any) -> Any:
    """A copy of the model with the matrices taken into its weights, as it was before they were put on."""
    merged_model = copy.deepcopy(model)
    for module in merged_model.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)  # which refuses numbers that are not finite
    recurse_remove_peft_layers(merged_model)
    del merged_model.peft_config
    merged_model._hf_peft_config_loaded = False  # of both libraries: else they look for the layers that are gone
    return merged_model


def save_lora(unet: Any, encoders: Mapping[str, Any], folder: Path) -> None:
    """Write the matrices of the UNet and of `encoders` (by their names in the pipeline) as FILE in `folder`.

    Their scale is in the tensors (alpha = rank), so that a program that reads no metadata is right too.
    """
    kind = getattr(diffusers, family_of_unet(unet.config).pipeline_class)
    parts = {"unet": unet, **encoders}
    layers = {f"{name}_lora_layers": _lora_state_dict(part) for name, part in parts.items()}
    metadata = {f"{name}_lora_adapter_metadata": _lora_metadata(part) for name, part in parts.items()}
    kind.save_lora_weights(folder, **layers, **metadata)


def _lora_metadata(model: Any) -> dict[str, Any]:
    """The adapter's configuration, at the scale of `_lora_state_dict`."""
    config = model.peft_config[NAME].to_dict()
    return config | {"lora_alpha": config["r"], "use_rslora": False}


def _lora_state_dict(model: Any) -> dict[str, torch.Tensor]:
    config = model.peft_config[NAME]
    scale = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    state = get_peft_model_state_dict(model, adapter_name=NAME)
    state = {name: value * scale if ".lora_B." in name else value for name, value in state.items()}
    state = convert_state_dict_to_diffusers(state)
    return {name: value.detach().to("cpu").contiguous() for name, value in state.items()}
