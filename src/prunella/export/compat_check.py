"""Whether ComfyUI, A1111 and diffusers take a file in the original layout, by their own rules (compat_check.yaml)."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.export.ldm_keys import UNET

FILE = Path(__file__).with_suffix(".yaml")
Shapes = Mapping[str, tuple[int, ...]]
NO_MID, BARE_MID = -2, -1  # in place of the number of transformer layers


class Verdict(NamedTuple):
    """`takes`: whether the program loads the file as it is; `known_as`: what it takes it for; `note`: what to do."""

    program: str
    takes: bool
    known_as: str
    note: str


@cache
def tables() -> dict[str, Any]:
    """Rules of recognition by program, each with its source."""
    return yaml.safe_load(FILE.read_text(encoding="utf-8"))


def verdicts(shapes: Shapes, velocities: bool, folder: str) -> list[Verdict]:
    """What each program makes of a file of tensors of these `shapes`.

    `velocities`: the model predicts velocities; `folder` is where its configs are.
    """
    found = facts(shapes)
    return [_comfyui(shapes, found, velocities), _a1111(shapes, found), _diffusers(found, folder)]


def facts(shapes: Shapes) -> dict[str, Any]:
    """What ComfyUI finds of a UNet by names and shapes.

    {"width": model channels, "context": text width, "linear": whether attention's projections are linear, "added":
    width of the added embedding or None, "depth": transformer layers after each input resnet, "resnets": input
    resnets by stage, "mid": transformer layers of the mid block}.
    """
    blocks: dict[int, set[str]] = {}
    for name in shapes:
        if found := re.match(rf"{UNET}\.input_blocks\.(\d+)\.(.*)", name):
            blocks.setdefault(int(found[1]), set()).add(found[2])
    depth, resnets = [], [0]
    for number in sorted(blocks)[1:]:  # after the first convolution
        if "0.op.weight" in blocks[number]:
            resnets.append(0)
        else:
            resnets[-1] += 1
            depth.append(_layers(blocks[number], "1."))
    attended = [
        name for name in shapes if name.startswith(f"{UNET}.input_blocks") and name.endswith("1.proj_in.weight")
    ]
    keys = [
        name for name in shapes if name.startswith(f"{UNET}.input_blocks") and name.endswith(".0.attn2.to_k.weight")
    ]
    added = shapes.get(f"{UNET}.label_emb.0.0.weight")
    return {
        "width": shapes[f"{UNET}.input_blocks.0.0.weight"][0],
        "context": shapes[keys[0]][1] if keys else None,
        "linear": len(shapes[attended[0]]) == 2 if attended else False,
        "added": added[1] if added else None,
        "depth": depth,
        "resnets": resnets,
        "mid": _mid(shapes),
    }


def _layers(names: set[str], prefix: str) -> int:
    found = (re.match(rf"{re.escape(prefix)}transformer_blocks\.(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def _mid(shapes: Shapes) -> int:
    inside = {name.removeprefix(f"{UNET}.") for name in shapes if name.startswith(f"{UNET}.middle_block.")}
    if "middle_block.1.proj_in.weight" in inside:
        return _layers(inside, "middle_block.1.")
    return BARE_MID if inside else NO_MID


def _comfyui(shapes: Shapes, found: dict[str, Any], velocities: bool) -> Verdict:
    rules = tables()["comfyui"]
    for name, asked in rules["classes"].items():
        if all(found[key] == value for key, value in asked.items()):
            mark = rules["velocities"].get(name, rules["velocities"]["others"])
            if velocities and (mark is None or mark not in shapes):
                note = "it takes the predictions for noise: put a ModelSamplingDiscrete node set to v_prediction behind"
                return Verdict("ComfyUI", True, name, note)
            return Verdict("ComfyUI", True, name, "put it into models/checkpoints")
    note = f"no class has width {found['width']}, text width {found['context']} and depths {found['depth']}"
    return Verdict("ComfyUI", False, "no match", f"{note}; use diffusers")


def _a1111(shapes: Shapes, found: dict[str, Any]) -> Verdict:
    for name, built in tables()["a1111"]["configs"].items():
        if built["text"] is None or built["text"] in shapes:
            takes = (found["depth"], found["mid"]) == (built["depth"], built["mid"])
            note = "put it into models/Stable-diffusion"
            wrong = "it builds the original's UNet, whose blocks these are not; use ComfyUI or diffusers"
            return Verdict("A1111", takes, name, note if takes else wrong)
    raise AssertionError("the last config is for whatever is left")


def _diffusers(found: dict[str, Any], folder: str) -> Verdict:
    if len(set(found["resnets"])) > 1:
        counts = ", ".join(map(str, found["resnets"]))
        note = f"it numbers blocks by one count of resnets for all stages, and here are {counts}; load {folder} itself"
        return Verdict("diffusers", False, "from_single_file", note)
    return Verdict("diffusers", True, "from_single_file", f'with config="{folder}", since it knows the originals alone')
