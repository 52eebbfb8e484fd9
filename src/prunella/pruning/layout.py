"""Layouts: which plan a teacher was made by that is itself a published student.

A layout is told by the UNet's config, which says how many transformer layers there are where, never by weights; plans
of one shape, such as SD-Small and BK-SDM-Base, are the same one.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from prunella.errors import UserError
from prunella.models.families import blocks, called_as, family
from prunella.pruning.plan import CATALOGUE, Plan, read_plan


def layout(config: Mapping[str, Any]) -> Plan | None:
    """The shipped plan of students with this UNet config; None where it is none's, as of a whole teacher."""
    kind = None if family(config) else called_as(config)
    shape = blocks(config) if kind else None
    return next((plan for plan in _shipped() if plan.family == kind and _blocks(plan) == shape), None)


def is_student(config: Mapping[str, Any]) -> bool:
    """Whether a UNet of this config is a student of a shipped plan's layout."""
    return layout(config) is not None


def whole_family(config: Mapping[str, Any], asking: str) -> str:
    """The family of a whole teacher with this UNet config. Raises UserError, which begins with `asking`, of others."""
    if (kind := family(config)) is not None:
        return kind
    known = layout(config)
    what = f"a student itself, of the layout of {known.name}" if known else "of no known family"
    raise UserError(
        f"{asking}: this teacher's UNet is {what}; what is chosen here is chosen among the parts of a whole teacher "
        f"(name a shipped plan or write one: docs/students.md)"
    )


@cache
def _shipped() -> list[Plan]:
    return [read_plan(path) for path in sorted(CATALOGUE.glob("*.yaml"))]


def _blocks(plan: Plan) -> tuple:
    """As `prunella.models.families.blocks` gives them of the plan's students."""
    down, up = ([[*map(len, plan.layers_of(way, stage))] for stage, _ in plan.stages(way)] for way in ("down", "up"))
    return down, {"keep": len(plan.mid_layers), "resnet": 0, "drop": None}[plan.mid], up
