"""Which of two plans keeps more. Needs no torch."""

from prunella.errors import UserError
from prunella.pruning.plan import Plan

MID = ("drop", "resnet", "keep")  # from nothing to all


def check_within(inner: Plan, outer: Plan) -> None:
    """Raises UserError where `inner` keeps something that `outer` lacks."""
    if lacking := lacks(inner, outer):
        raise UserError(f"{inner.name} keeps {lacking}, which {outer.name} does not")


def same(one: Plan, other: Plan) -> bool:
    """Whether two plans keep the same."""
    return not lacks(one, other) and not lacks(other, one)


def lacks(inner: Plan, outer: Plan) -> str | None:
    """What the first keeps and the second does not; None where that is nothing."""
    if inner.family != outer.family:
        return f"blocks of family {inner.family!r}"
    if MID.index(inner.mid) > MID.index(outer.mid):
        return "more of the mid block"
    if more := sorted(set(inner.mid_layers) - set(outer.mid_layers)):
        return f"layer {more[0]} of the mid block" if outer.mid == "keep" else "more of the mid block"
    for way in ("down", "up"):
        theirs = {
            stage: dict(zip(pairs, outer.layers_of(way, stage), strict=True)) for stage, pairs in outer.stages(way)
        }
        for stage, pairs in inner.stages(way):
            for pair, layers in zip(pairs, inner.layers_of(way, stage), strict=True):
                if pair not in theirs.get(stage, {}):
                    return f"{way} stage {stage}, pair {pair}"
                if more := sorted(set(layers) - set(theirs[stage][pair])):
                    return f"layer {more[0]} of {way} stage {stage}, pair {pair}"
    return None
