"""A student made little by little: the plans between the whole teacher and the student.

A cut takes one thing away that the student lacks, the deepest first: the mid block (or all of it but a resnet), then
stage by stage from the deepest. Of a stage that goes as a whole that is one cut; of one that stays, first the pairs
that go, of the down stage and the up stage that takes its skips, then its transformer layers, the last of every
attention at once. The mid block's layers go with those of the deepest stage that stays, since diffusers' UNet has one
number for both.
"""

import math
from typing import Any

from prunella.pruning.mapping import teacher_key, weight_map
from prunella.pruning.plan import Plan


def cuts(plan: Plan) -> list[Plan]:
    """The plans after each cut, the last of which keeps what `plan` keeps; that alone, where nothing is cut."""
    stages, made, found = len(plan.down), [0] * len(plan.down), []
    if plan.mid != "keep":
        found.append(_after(plan, made))
    for stage in reversed(range(stages)):
        for _ in range(_count(plan, stage)):
            made[stage] += 1
            found.append(_after(plan, made))
    return [*found[:-1], plan]


def partly(plan: Plan, share: float) -> Plan:
    """The plan after that share (above 0, at most 1) of its cuts, rounded up."""
    every = cuts(plan)
    made = math.ceil(round(share * len(every), 6))
    found = every[made - 1]
    return found if found is plan else found.model_copy(update={"name": f"{plan.name} ({made} of {len(every)} cuts)"})


def origins(inner: Plan, outer: Plan, names: list[str], outer_names: list[str]) -> dict[str, str]:
    """Of each weight of the student of `inner` (`names`) the one of `outer`'s student that it is the successor of."""
    ours, theirs = weight_map(inner), weight_map(outer)
    known = {teacher_key(name, theirs): name for name in outer_names}
    return {name: known[teacher_key(name, ours)] for name in names}


def _after(plan: Plan, made: list[int]) -> Plan:
    """The plan after so many cuts of each stage, the mid block being cut where it is to be."""
    stages, known = len(plan.down), plan.teacher
    down, up, layers = [], [], {"down": {}, "up": {}}  # type: ignore[var-annotated]
    for stage, count in enumerate(made):
        for way, kept, number in (("down", down, stage), ("up", up, stages - 1 - stage)):
            every, final = list(range(known.pairs_of(way))), getattr(plan, way)[number]
            kept.append((final if count else every) if final is not None or count else every)
            depth = count - _pairs_go(plan, stage)
            if kept[-1] is not None and depth > 0:
                layers[way][number] = _layers(plan, way, number, depth)
    mid = {}
    if plan.mid == "keep" and (depth := made[plan.kept - 1] - _pairs_go(plan, plan.kept - 1)) > 0:
        mid = {"mid": _less(list(range(known.mid)), plan.mid_layers, depth)}
    content: dict[str, Any] = {"down": down, "up": up[::-1], "layers": layers | mid}
    return Plan.model_validate(plan.model_dump() | content)


def _layers(plan: Plan, way: str, number: int, depth: int) -> list[list[int]]:
    """The layers of a stage's kept pairs after so many have gone; [] where its attention has."""
    every, final = list(range(plan.teacher.layers_of(way, number))), plan.layers_of(way, number)
    return [_less(every, kept, depth) for kept in final] if any(final) else []


def _less(every: list[int], final: list[int], depth: int) -> list[int]:
    gone = sorted(set(every) - set(final), reverse=True)[:depth]
    return [layer for layer in every if layer not in gone]


def _pairs_go(plan: Plan, stage: int) -> bool:
    """Whether pairs of a stage that stays go, its own or its up stage's."""
    down, up = plan.down[stage], plan.up[len(plan.up) - 1 - stage]
    return down is not None and (down, up) != tuple(list(range(plan.teacher.pairs_of(way))) for way in ("down", "up"))


def _count(plan: Plan, stage: int) -> int:
    """How many cuts a stage takes."""
    if plan.down[stage] is None:
        return 1
    gone = [len(plan.mid_layers) and plan.teacher.mid - len(plan.mid_layers)] if stage == plan.kept - 1 else []
    for way, number in (("down", stage), ("up", len(plan.up) - 1 - stage)):
        every = plan.teacher.layers_of(way, number)
        final = plan.layers_of(way, number)
        gone += [every - len(kept) for kept in final] if any(final) else [min(every, 1)]
    return _pairs_go(plan, stage) + max(gone)
