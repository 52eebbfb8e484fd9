"""Cost of each part of a teacher, so that a student's cost is the sum over the parts that it keeps.

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

from prunella.models.families import family_of_unet, predict_with_unet
from prunella.models.pipeline import build_meta_unet
from prunella.planning.units import DropDeepest, plan_without
from prunella.profiling.cost import NUM_TOKENS
from prunella.pruning.mapping import student_config, teacher_key, weight_map
from prunella.pruning.plan import Plan

OTHER_MODULES = "rest"  # what every student has


class CostTable(NamedTuple):
    """Costs of one kind, by part, for each number of removed stages."""

    by_num_removed: dict[int, dict[str, float]]

    def cost_of_plan(self, plan: Plan) -> float:
        """The cost of a student."""
        module_costs = self.by_num_removed[plan.num_removed_stages]
        return module_costs[OTHER_MODULES] + sum(
            module_costs.get(module_name, 0) for module_name in list_kept_modules(plan)
        )


def list_kept_modules(plan: Plan) -> set[str]:
    """The parts that a student keeps; samplers are named where the teacher has none, too."""
    mid_modules = {"keep": ["resnets.0", "attentions.0", "resnets.1"], "resnet": ["resnets.0"], "drop": []}[plan.mid]
    kept_modules = set(weight_map(plan).values()) | {f"mid_block.{module_name}" for module_name in mid_modules}
    return kept_modules - {
        f"down_blocks.{plan.num_kept_stages - 1}.downsamplers"
    }  # nothing follows the last down stage


def count_costs(
    family: str, unet_config: dict[str, Any], removed_levels: Iterable[int], latent_size: tuple[int, int]
) -> dict[str, CostTable]:
    """ "params" and "macs" (of one example with latents of width and height `latent_size`) of a teacher with this
    config.
    """
    params: dict[int, dict[str, float]] = {}
    macs: dict[int, dict[str, float]] = {}
    for num_removed in removed_levels:
        plan = plan_without(family, [DropDeepest(num_removed, "keep")])
        unet = build_meta_unet(student_config(plan, unet_config))
        params[num_removed] = sum_by_module(plan, ((name, value.numel()) for name, value in unet.state_dict().items()))
        macs[num_removed] = sum_by_module(plan, _count_macs(unet, latent_size).items())
    return {"params": CostTable(params), "macs": CostTable(macs)}


def sum_by_module(plan: Plan, costs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Costs by the names of a student's weights or modules, summed by the part that each is in."""
    module_map, kept_modules = weight_map(plan), list_kept_modules(plan)
    sums: dict[str, float] = {OTHER_MODULES: 0}
    for name, cost in ((name, cost) for name, cost in costs if cost):
        key_parts = teacher_key(name, module_map).split(".")
        prefixes = (".".join(key_parts[:length]) for length in (6, 5, 4, 3))
        module_name = next((prefix for prefix in prefixes if prefix in kept_modules), OTHER_MODULES)
        sums[module_name] = sums.get(module_name, 0) + cost
    return sums


def _count_macs(unet: UNet2DConditionModel, latent_size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of every module by itself, attention's products included."""
    unet.set_attn_processor(AttnProcessor())  # plain products, which the counter sees
    shapes = family_of_unet(unet.config).example_shapes(unet.config, (latent_size[1], latent_size[0]), NUM_TOKENS)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        inputs = {name: torch.empty(1, *shape) for name, shape in shapes.items()}
        predict_with_unet(unet, inputs["latents"], torch.empty(1), inputs)
    totals = {name: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    return exclusive_totals(_strip_root_name(totals))


def _strip_root_name(totals: dict[str, int]) -> dict[str, int]:
    """Only what is inside the UNet, by the names that it has for it; "" is the UNet."""
    root = UNet2DConditionModel.__name__
    return {name[len(root) :].lstrip("."): count for name, count in totals.items() if name.startswith(root)}


def exclusive_totals(totals: dict[str, Any]) -> dict[str, Any]:
    """Totals by module name, less those of the modules inside each."""
    exclusive = dict(totals)
    for name, total in totals.items():
        parent = name
        while parent:
            parent = parent.rpartition(".")[0]
            if parent in totals:
                exclusive[parent] -= total
                break
    return exclusive
