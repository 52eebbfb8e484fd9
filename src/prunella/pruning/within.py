"""The one of two plans that keeps more. Needs no torch."""

from prunella.errors import UserError
from prunella.pruning.plan import Plan

MID_ORDER = ("drop", "resnet", "keep")  # from nothing to all


def check_subset(inner_plan: Plan, outer_plan: Plan) -> None:
    """Raises UserError where `inner_plan` keeps something that `outer_plan` lacks."""
    if missing := find_missing_block(inner_plan, outer_plan):
        raise UserError(f"{inner_plan.name} keeps {missing}, which {outer_plan.name} does not")


def keep_same_blocks(one: Plan, other: Plan) -> bool:
    """Whether two plans keep the same."""
    return not find_missing_block(one, other) and not find_missing_block(other, one)


def find_missing_block(inner_plan: Plan, outer_plan: Plan) -> str | None:
    """The difference: what the first keeps and the second does not; None where that is nothing."""
    if inner_plan.family != outer_plan.family:
        return f"blocks of family {inner_plan.family!r}"
    if MID_ORDER.index(inner_plan.mid) > MID_ORDER.index(outer_plan.mid):
        return "more of the mid block"
    if extra_layers := sorted(set(inner_plan.mid_layers) - set(outer_plan.mid_layers)):
        return f"layer {extra_layers[0]} of the mid block" if outer_plan.mid == "keep" else "more of the mid block"
    for direction in ("down", "up"):
        outer_blocks = {
            stage: dict(zip(blocks, outer_plan.list_kept_layers(direction, stage), strict=True))
            for stage, blocks in outer_plan.list_kept_stages(direction)
        }
        for stage, blocks in inner_plan.list_kept_stages(direction):
            for block, layers in zip(blocks, inner_plan.list_kept_layers(direction, stage), strict=True):
                if block not in outer_blocks.get(stage, {}):
                    return f"{direction} stage {stage}, pair {block}"
                if extra_layers := sorted(set(layers) - set(outer_blocks[stage][block])):
                    return f"layer {extra_layers[0]} of {direction} stage {stage}, pair {block}"
    return None
