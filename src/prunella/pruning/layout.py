"""Layouts: which plan a teacher was made by that is itself a published student.

A layout is told by the UNet's config, which says how many transformer layers there are where, never by weights; plans
of one shape, such as SD-Small and BK-SDM-Base, are the same one.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from prunella.errors import UserError
from prunella.models.families import count_transformer_layers, detect_teacher_family, pipeline_family
from prunella.pruning.plan import SHIPPED_PLANS, Plan, read_plan


def find_matching_plan(config: Mapping[str, Any]) -> Plan | None:
    """The shipped plan of students with this UNet config; None where it is none's, as of a whole teacher."""
    family_name = None if detect_teacher_family(config) else pipeline_family(config)
    shape = count_transformer_layers(config) if family_name else None
    return next(
        (plan for plan in _read_shipped_plans() if plan.family == family_name and _count_plan_layers(plan) == shape),
        None,
    )


def is_student(config: Mapping[str, Any]) -> bool:
    """Whether a UNet of this config is a student of a shipped plan's layout."""
    return find_matching_plan(config) is not None


def require_full_family(config: Mapping[str, Any], message_prefix: str) -> str:
    """The family of a whole teacher with this UNet config.

    Raises UserError, which begins with `message_prefix`, of others.
    """
    if (family_name := detect_teacher_family(config)) is not None:
        return family_name
    student_plan = find_matching_plan(config)
    finding = f"a student itself, of the layout of {student_plan.name}" if student_plan else "of no known family"
    raise UserError(
        f"{message_prefix}: this teacher's UNet is {finding}; what is chosen here is chosen among the parts of a "
        "whole teacher "
        f"(name a shipped plan or write one: docs/students.md)"
    )


@cache
def _read_shipped_plans() -> list[Plan]:
    return [read_plan(path) for path in sorted(SHIPPED_PLANS.glob("*.yaml"))]


def _count_plan_layers(plan: Plan) -> tuple:
    """Layer counts of the plan's students, as `prunella.models.families.count_transformer_layers` gives them."""
    down, up = (
        [[*map(len, plan.list_kept_layers(direction, stage))] for stage, _ in plan.list_kept_stages(direction)]
        for direction in ("down", "up")
    )
    return down, {"keep": len(plan.mid_layers), "resnet": 0, "drop": None}[plan.mid], up
