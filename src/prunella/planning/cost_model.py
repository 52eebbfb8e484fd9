"""What each part of a teacher costs, so that a student's cost is the sum over the parts that it keeps.

A part is what a plan can leave out: a resnet, an attention without its layers, a transformer layer, a sampler. They are
named as the teacher's modules. Parameters and multiply-accumulates are exact sums; milliseconds are measured
(`prunella.planning.latency`). A stage works at one resolution whatever others there are, but the mid block does not:
hence prices for each number of removed stages.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

from prunella.models.families import architecture, predict
from prunella.models.pipeline import empty_unet
from prunella.planning.units import End, planned
from prunella.profiling.cost import TOKENS
from prunella.pruning.mapping import student_config, teacher_key, weight_map
from prunella.pruning.plan import Plan

REST = "rest"  # what every student has


class Prices(NamedTuple):
    """Costs of one kind, by part, for each number of removed stages."""

    by_removed: dict[int, dict[str, float]]

    def of(self, plan: Plan) -> float:
        """The cost of a student."""
        prices = self.by_removed[plan.removed]
        return prices[REST] + sum(prices.get(part, 0) for part in parts(plan))


def parts(plan: Plan) -> set[str]:
    """The parts that a student keeps; samplers are named where the teacher has none, too."""
    mid = {"keep": ["resnets.0", "attentions.0", "resnets.1"], "resnet": ["resnets.0"], "drop": []}[plan.mid]
    kept = set(weight_map(plan).values()) | {f"mid_block.{part}" for part in mid}
    return kept - {f"down_blocks.{plan.kept - 1}.downsamplers"}  # nothing follows the last down stage


def counted(family: str, config: dict[str, Any], removed: Iterable[int], size: tuple[int, int]) -> dict[str, Prices]:
    """ "params" and "macs" (of one example with latents of width and height `size`) of a teacher with this config."""
    params: dict[int, dict[str, float]] = {}
    macs: dict[int, dict[str, float]] = {}
    for number in removed:
        plan = planned(family, [End(number, "keep")])
        unet = empty_unet(student_config(plan, config))
        params[number] = by_part(plan, ((name, value.numel()) for name, value in unet.state_dict().items()))
        macs[number] = by_part(plan, _macs(unet, size).items())
    return {"params": Prices(params), "macs": Prices(macs)}


def by_part(plan: Plan, costs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Costs by the names of a student's weights or modules, summed by the part that each is in."""
    places, known = weight_map(plan), parts(plan)
    sums: dict[str, float] = {REST: 0}
    for name, cost in ((name, cost) for name, cost in costs if cost):
        words = teacher_key(name, places).split(".")
        prefixes = (".".join(words[:length]) for length in (6, 5, 4, 3))
        part = next((prefix for prefix in prefixes if prefix in known), REST)
        sums[part] = sums.get(part, 0) + cost
    return sums


def _macs(unet: UNet2DConditionModel, size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of every module by itself, attention's products included."""
    unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
    shapes = architecture(unet.config).example(unet.config, (size[1], size[0]), TOKENS)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        inputs = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        predict(unet, inputs["latents"], torch.empty(1), inputs)
    totals = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return own(_inside(totals))


def _inside(totals: dict[str, int]) -> dict[str, int]:
    """Only what is inside the UNet, by the names that it has for it; "" is the UNet."""
    root = UNet2DConditionModel.__name__
    return {name[len(root) :].lstrip("."): count for name, count in totals.items() if name.startswith(root)}


def own(totals: dict[str, Any]) -> dict[str, Any]:
    """Totals by module name, less those of the modules inside each."""
    alone = dict(totals)
    for name, total in totals.items():
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in totals:
                alone[parent] -= total
                break
    return alone
