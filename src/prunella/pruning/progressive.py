"""A student made little by little: the plans between the whole teacher and the student.

A cut takes one thing away that the student lacks, the deepest first: the mid block (or all of it but a resnet), then
stage by stage from the deepest. A stage that goes as a whole that is one cut; of one that stays, first the pairs
that go, of the down stage and the up stage that takes its skips, then its transformer layers, the last of every
attention at once. The mid block's layers go with those of the deepest stage that stays, since diffusers' UNet has one
number for both.
"""

import math
from typing import Any

from prunella.pruning.mapping import teacher_key, weight_map
from prunella.pruning.plan import Plan


def intermediate_plans(plan: Plan) -> list[Plan]:
    """The plans after each cut, the last of which keeps what `plan` keeps; that alone, where nothing is cut."""
    num_stages, cuts_per_stage, plans = len(plan.down), [0] * len(plan.down), []
    if plan.mid != "keep":
        plans.append(_plan_after_cuts(plan, cuts_per_stage))
    for stage in reversed(range(num_stages)):
        for _ in range(_count_cuts(plan, stage)):
            cuts_per_stage[stage] += 1
            plans.append(_plan_after_cuts(plan, cuts_per_stage))
    return [*plans[:-1], plan]


def plan_at_fraction(plan: Plan, fraction: float) -> Plan:
    """The plan after that share (above 0, at most 1) of its cuts, rounded up."""
    plans = intermediate_plans(plan)
    num_cuts = math.ceil(round(fraction * len(plans), 6))
    partial_plan = plans[num_cuts - 1]
    return (
        partial_plan
        if partial_plan is plan
        else partial_plan.model_copy(update={"name": f"{plan.name} ({num_cuts} of {len(plans)} cuts)"})
    )


def weight_origins(
    inner_plan: Plan, outer_plan: Plan, inner_names: list[str], outer_names: list[str]
) -> dict[str, str]:
    """For each weight of the student of `inner_plan` (`inner_names`) the one of `outer_plan`'s student that it is the
    successor of.
    """
    inner_map, outer_map = weight_map(inner_plan), weight_map(outer_plan)
    outer_by_teacher_key = {teacher_key(name, outer_map): name for name in outer_names}
    return {name: outer_by_teacher_key[teacher_key(name, inner_map)] for name in inner_names}


def _plan_after_cuts(plan: Plan, cuts_per_stage: list[int]) -> Plan:
    """The plan after so many cuts of each stage, the mid block being cut where it is to be."""
    num_stages, teacher_family = len(plan.down), plan.teacher_family
    down_blocks, up_blocks, layers = [], [], {"down": {}, "up": {}}  # type: ignore[var-annotated]
    for stage, count in enumerate(cuts_per_stage):
        for direction, kept_blocks, stage_index in (
            ("down", down_blocks, stage),
            ("up", up_blocks, num_stages - 1 - stage),
        ):
            all_blocks, final_blocks = (
                list(range(teacher_family.blocks_per_stage(direction))),
                getattr(plan, direction)[stage_index],
            )
            kept_blocks.append(
                (final_blocks if count else all_blocks) if final_blocks is not None or count else all_blocks
            )
            num_layer_cuts = count - _removes_blocks(plan, stage)
            if kept_blocks[-1] is not None and num_layer_cuts > 0:
                layers[direction][stage_index] = _layers_after_cuts(plan, direction, stage_index, num_layer_cuts)
    mid = {}
    if (
        plan.mid == "keep"
        and (
            num_layer_cuts := cuts_per_stage[plan.num_kept_stages - 1] - _removes_blocks(plan, plan.num_kept_stages - 1)
        )
        > 0
    ):
        mid = {"mid": _shrink(list(range(teacher_family.mid_layers)), plan.mid_layers, num_layer_cuts)}
    content: dict[str, Any] = {"down": down_blocks, "up": up_blocks[::-1], "layers": layers | mid}
    return Plan.model_validate(plan.model_dump() | content)


def _layers_after_cuts(plan: Plan, direction: str, stage_index: int, num_cuts: int) -> list[list[int]]:
    """The layers of a stage's kept pairs after so many have gone; [] where its attention has."""
    all_layers, final_layers = (
        list(range(plan.teacher_family.transformer_layers_at(direction, stage_index))),
        plan.list_kept_layers(direction, stage_index),
    )
    return [_shrink(all_layers, kept_layers, num_cuts) for kept_layers in final_layers] if any(final_layers) else []


def _shrink(all_layers: list[int], final_layers: list[int], num_cuts: int) -> list[int]:
    removed = sorted(set(all_layers) - set(final_layers), reverse=True)[:num_cuts]
    return [layer for layer in all_layers if layer not in removed]


def _removes_blocks(plan: Plan, stage: int) -> bool:
    """Whether pairs of a stage that stays go, its own or its up stage's."""
    down, up = plan.down[stage], plan.up[len(plan.up) - 1 - stage]
    return down is not None and (down, up) != tuple(
        list(range(plan.teacher_family.blocks_per_stage(direction))) for direction in ("down", "up")
    )


def _count_cuts(plan: Plan, stage: int) -> int:
    """How many cuts a stage takes."""
    if plan.down[stage] is None:
        return 1
    removed_counts = (
        [len(plan.mid_layers) and plan.teacher_family.mid_layers - len(plan.mid_layers)]
        if stage == plan.num_kept_stages - 1
        else []
    )
    for direction, stage_index in (("down", stage), ("up", len(plan.up) - 1 - stage)):
        num_layers = plan.teacher_family.transformer_layers_at(direction, stage_index)
        final_layers = plan.list_kept_layers(direction, stage_index)
        removed_counts += (
            [num_layers - len(kept_layers) for kept_layers in final_layers]
            if any(final_layers)
            else [min(num_layers, 1)]
        )
    return _removes_blocks(plan, stage) + max(removed_counts)
