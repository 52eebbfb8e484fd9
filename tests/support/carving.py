"""Students as published code makes them: modules taken out of a living copy of the teacher, by hand.

An oracle apart from plans and weight maps: {module list: indices kept}, in the teacher's numbers, one entry a list.
"""

import copy

from torch import nn


def _sd(mid: bool, stages: int) -> dict[str, list[int]]:
    kept = {}
    for i in range(stages):
        kept[f"down_blocks.{i}.resnets"] = kept[f"down_blocks.{i}.attentions"] = [0]
    for i in range(4 - stages, 4):
        kept[f"up_blocks.{i}.resnets"] = kept[f"up_blocks.{i}.attentions"] = [0, 2]
    if stages == 3:
        kept |= {"down_blocks.2.downsamplers": [], "down_blocks": [0, 1, 2], "up_blocks": [1, 2, 3]}
    if not mid:
        kept["mid_block"] = []
    return kept


def _koala(first: int, mid: bool) -> dict[str, list[int]]:
    kept = {}
    for i in range(3):
        kept[f"down_blocks.{i}.resnets"] = kept[f"down_blocks.{i}.attentions"] = [0]
        kept[f"up_blocks.{i}.resnets"] = kept[f"up_blocks.{i}.attentions"] = [0, 2]
    for attention in ("down_blocks.2.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"):
        kept[f"{attention}.transformer_blocks"] = list(range(first))
    kept |= {"mid_block.attentions.0.transformer_blocks": list(range(first))} if mid else {"mid_block": []}
    return kept


def _segmind(layers: dict[str, list[int]]) -> dict[str, list[int]]:
    kept = {f"{attention}.transformer_blocks": numbers for attention, numbers in layers.items()}
    return kept | {"mid_block.attentions": [], "mid_block.resnets": [0]}


SSD = {f"down_blocks.2.attentions.{i}": [0, 1, 2, 6] for i in (0, 1)}
SSD |= {f"up_blocks.0.attentions.{i}": [0, 1, 2, 6] for i in (0, 1)}
SSD |= {f"up_blocks.1.attentions.{i}": [0] for i in (1, 2)}
VEGA = {f"down_blocks.{stage}.attentions.{i}": list(range(stage)) for stage in (1, 2) for i in (0, 1)}
VEGA |= {f"up_blocks.{stage}.attentions.{i}": list(range(2 - stage)) for stage in (0, 1) for i in (0, 1, 2)}

KEPT = {
    "sd-small": _sd(mid=True, stages=4),
    "bk-sdm-base": _sd(mid=True, stages=4),
    "bk-sdm-small": _sd(mid=False, stages=4),
    "sd-tiny": _sd(mid=False, stages=3),
    "bk-sdm-tiny": _sd(mid=False, stages=3),
    "ssd-1b": _segmind(SSD),
    "segmind-vega": _segmind(VEGA),
    "koala-1b": _koala(6, mid=True),
    "koala-700m": _koala(5, mid=False),
}


def carved(teacher: nn.Module, kept: dict[str, list[int]]) -> dict:
    """The state of a copy of `teacher` that holds only the entries of `kept` in the lists that it names."""
    model = copy.deepcopy(teacher)
    for name, indices in kept.items():
        if name == "mid_block":
            model.mid_block = None
            continue
        path, _, last = name.rpartition(".")
        parent = model.get_submodule(path)
        if (modules := getattr(parent, last, None)) is not None:  # stages without attention have no such list
            setattr(parent, last, nn.ModuleList(modules[i] for i in indices))
    return model.state_dict()
