"""Whether ComfyUI, A1111 and diffusers take a file in the original layout, by their own rules (compat_check.yaml)."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.export.ldm_keys import UNET_PREFIX

RULES_FILE = Path(__file__).with_suffix(".yaml")
Shapes = Mapping[str, tuple[int, ...]]
NO_MID, MID_WITHOUT_LAYERS = -2, -1  # in place of the number of transformer layers


class Compatibility(NamedTuple):
    """`is_supported`: whether the program loads the file as it is; `detected_as`: what it takes it for; `note`.

    Advice.
    """

    program: str
    is_supported: bool
    detected_as: str
    note: str


@cache
def load_rules() -> dict[str, Any]:
    """Rules of recognition by program, each with its source."""
    return yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))


def check_programs(shapes: Shapes, v_prediction: bool, folder: str) -> list[Compatibility]:
    """The verdict of each program on a file of tensors of these `shapes`.

    `v_prediction`: the model predicts velocities; `folder` is where its configs are.
    """
    unet_layout = detect_unet_layout(shapes)
    return [
        _check_comfyui(shapes, unet_layout, v_prediction),
        _check_a1111(shapes, unet_layout),
        _check_diffusers(unet_layout, folder),
    ]


def detect_unet_layout(shapes: Shapes) -> dict[str, Any]:
    """The findings of ComfyUI on a UNet by names and shapes.

    {"width": model channels, "context": text width, "linear": whether attention's projections are linear, "added":
    width of the added embedding or None, "depth": transformer layers after each input resnet, "resnets": input
    resnets by stage, "mid": transformer layers of the mid block}.
    """
    blocks: dict[int, set[str]] = {}
    for name in shapes:
        if match := re.match(rf"{UNET_PREFIX}\.input_blocks\.(\d+)\.(.*)", name):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    depth, resnets = [], [0]
    for number in sorted(blocks)[1:]:  # after the first convolution
        if "0.op.weight" in blocks[number]:
            resnets.append(0)
        else:
            resnets[-1] += 1
            depth.append(_count_transformer_layers(blocks[number], "1."))
    proj_in_keys = [
        name for name in shapes if name.startswith(f"{UNET_PREFIX}.input_blocks") and name.endswith("1.proj_in.weight")
    ]
    cross_attention_keys = [
        name
        for name in shapes
        if name.startswith(f"{UNET_PREFIX}.input_blocks") and name.endswith(".0.attn2.to_k.weight")
    ]
    label_embedding = shapes.get(f"{UNET_PREFIX}.label_emb.0.0.weight")
    return {
        "width": shapes[f"{UNET_PREFIX}.input_blocks.0.0.weight"][0],
        "context": shapes[cross_attention_keys[0]][1] if cross_attention_keys else None,
        "linear": len(shapes[proj_in_keys[0]]) == 2 if proj_in_keys else False,
        "added": label_embedding[1] if label_embedding else None,
        "depth": depth,
        "resnets": resnets,
        "mid": _count_mid_layers(shapes),
    }


def _count_transformer_layers(names: set[str], prefix: str) -> int:
    matches = (re.match(rf"{re.escape(prefix)}transformer_blocks\.(\d+)\.", name) for name in names)
    return len({match[1] for match in matches if match})


def _count_mid_layers(shapes: Shapes) -> int:
    mid_keys = {
        name.removeprefix(f"{UNET_PREFIX}.") for name in shapes if name.startswith(f"{UNET_PREFIX}.middle_block.")
    }
    if "middle_block.1.proj_in.weight" in mid_keys:
        return _count_transformer_layers(mid_keys, "middle_block.1.")
    return MID_WITHOUT_LAYERS if mid_keys else NO_MID


def _check_comfyui(shapes: Shapes, unet_layout: dict[str, Any], v_prediction: bool) -> Compatibility:
    rules = load_rules()["comfyui"]
    for name, requirements in rules["classes"].items():
        if all(unet_layout[key] == value for key, value in requirements.items()):
            marker_key = rules["velocities"].get(name, rules["velocities"]["others"])
            if v_prediction and (marker_key is None or marker_key not in shapes):
                note = "it takes the predictions for noise: put a ModelSamplingDiscrete node set to v_prediction behind"
                return Compatibility("ComfyUI", True, name, note)
            return Compatibility("ComfyUI", True, name, "put it into models/checkpoints")
    note = (
        f"no class has width {unet_layout['width']}, text width {unet_layout['context']} and depths "
        f"{unet_layout['depth']}"
    )
    return Compatibility("ComfyUI", False, "no match", f"{note}; use diffusers")


def _check_a1111(shapes: Shapes, unet_layout: dict[str, Any]) -> Compatibility:
    for name, built_config in load_rules()["a1111"]["configs"].items():
        if built_config["text"] is None or built_config["text"] in shapes:
            is_supported = (unet_layout["depth"], unet_layout["mid"]) == (built_config["depth"], built_config["mid"])
            note = "put it into models/Stable-diffusion"
            unsupported_note = "it builds the original's UNet, whose blocks these are not; use ComfyUI or diffusers"
            return Compatibility("A1111", is_supported, name, note if is_supported else unsupported_note)
    raise AssertionError("the last config is for whatever is left")


def _check_diffusers(unet_layout: dict[str, Any], folder: str) -> Compatibility:
    if len(set(unet_layout["resnets"])) > 1:
        counts = ", ".join(map(str, unet_layout["resnets"]))
        note = f"it numbers blocks by one count of resnets for all stages, and here are {counts}; load {folder} itself"
        return Compatibility("diffusers", False, "from_single_file", note)
    return Compatibility(
        "diffusers", True, "from_single_file", f'with config="{folder}", since it knows the originals alone'
    )
