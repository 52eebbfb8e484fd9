"""Requirements of a student that chooses itself: blocks that must stay, and a budget in numbers."""

from collections.abc import Sequence

from prunella.errors import UserError
from prunella.models.families import FAMILIES
from prunella.params import PlanRequest
from prunella.planning.cost_model import CostTable
from prunella.planning.solver import CostFunction, find_smallest_student
from prunella.planning.units import MID_ATTENTION, DropDeepest, DropLayer, Unit, full_plan
from prunella.pruning.plan import STUDENTS

UNIT_LABELS = {"params": "parameters", "macs": "multiply-accumulates", "ms": "ms"}


def filter_units(units: Sequence[Unit], retained_blocks: Sequence[str], family: str) -> list[Unit]:
    """The units without those that would take something that must stay: mid, down.1, up.2.0 (stage, pair).

    Raises UserError where the teacher has no such block.
    """
    for block in retained_blocks:
        _check_block_exists(block, family)
    return [unit for unit in units if not any(_removes_block(unit, block, family) for block in retained_blocks)]


def resolve_budget(
    name: str,
    plan_request: PlanRequest,
    removable_units: Sequence[Unit],
    all_units: Sequence[Unit],
    family: str,
    cost: CostFunction,
    cost_table: CostTable,
) -> float:
    """The most that student `name` may cost: the number, a share of the teacher's, or what another student costs.

    `removable_units` are those that may go, `all_units` those that could if nothing had to stay. Raises UserError,
    with the range, where no student costs so little, or the teacher does not cost more.
    """
    ((cost_unit, requested),) = plan_request.budget.items()
    num_stages, teacher_cost = len(FAMILIES[family].down_block_types), cost_table.cost_of_plan(full_plan(family))
    limit = _absolute_budget(name, requested, teacher_cost, family, cost_table)
    min_cost, unrestricted_min = (
        cost(find_smallest_student(unit_set, num_stages, cost)) for unit_set in (removable_units, all_units)
    )
    message_prefix = f"plan.students.{name}: at most {format_cost(limit, cost_unit)}"
    if unrestricted_min <= limit < min_cost:
        raise UserError(
            f"{message_prefix} cannot be had where {', '.join(plan_request.keep)} must stay: the smallest such "
            "student has "
            f"{format_cost(min_cost, cost_unit)}; take one out of keep, or ask for more"
        )
    if not min_cost <= limit < teacher_cost:
        raise UserError(
            f"{message_prefix} is out of range: the smallest student of this teacher has "
            f"{format_cost(min_cost, cost_unit)} and "
            f"the teacher has {format_cost(teacher_cost, cost_unit)}"
            + ("" if plan_request.attention else "; attention: true makes smaller ones possible")
        )
    return limit


def _absolute_budget(
    name: str, requested: float | str, teacher_cost: float, family: str, cost_table: CostTable
) -> float:
    if not isinstance(requested, str):
        return teacher_cost * requested if requested < 1 else requested
    plan = STUDENTS[requested]
    if plan.family != family:
        raise UserError(
            f"plan.students.{name}: {requested} is a student of a teacher of family {plan.family!r}, and this "
            f"teacher is of family {family!r}: name one of its family, or a number"
        )
    return cost_table.cost_of_plan(plan)


def format_cost(cost: float, cost_unit: str) -> str:
    """A cost in words."""
    return f"{cost:,.2f} ms" if cost_unit == "ms" else f"{cost:,.0f} {UNIT_LABELS[cost_unit]}"


def _check_block_exists(block: str, family: str) -> None:
    teacher_family = FAMILIES[family]
    if block == "mid":
        return
    direction, stage, *block_number = block.split(".")
    num_stages, num_blocks = len(teacher_family.down_block_types), teacher_family.blocks_per_stage(direction)
    if int(stage) >= num_stages or (block_number and int(block_number[0]) >= num_blocks):
        raise UserError(
            f"keep: a teacher of family {family!r} has no {block}: {direction} has stages 0 to {num_stages - 1} of "
            f"{num_blocks} pairs"
        )


def _removes_block(unit: Unit, block: str, family: str) -> bool:
    """Whether a unit takes something of a block."""
    num_stages = len(FAMILIES[family].down_block_types)
    if block == "mid":
        return (isinstance(unit, DropDeepest) and unit.mid != "keep") or (
            isinstance(unit, DropLayer) and unit.attention == MID_ATTENTION
        )
    direction, stage_number, *block_number = block.split(".")
    stage = int(stage_number) if direction == "down" else num_stages - 1 - int(stage_number)
    block_numbers = [int(number) for number in block_number] or list(
        range(FAMILIES[family].blocks_per_stage(direction))
    )
    if isinstance(unit, DropDeepest):
        return stage >= num_stages - unit.num_removed
    if isinstance(unit, DropLayer):
        return unit.attention in {f"{direction}_blocks.{stage_number}.attentions.{number}" for number in block_numbers}
    return unit.stage == stage and not all(unit.keeps_attention(direction, number) for number in block_numbers)
