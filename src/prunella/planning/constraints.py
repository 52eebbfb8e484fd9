"""What is asked of a student that chooses itself: blocks that must stay, and a budget in numbers."""

from collections.abc import Sequence

from prunella.errors import UserError
from prunella.models.families import FAMILIES
from prunella.params import Description
from prunella.planning.cost_model import Prices
from prunella.planning.solver import Cost, smallest
from prunella.planning.units import MID, End, Layer, Unit, whole
from prunella.pruning.plan import STUDENTS

UNITS = {"params": "parameters", "macs": "multiply-accumulates", "ms": "ms"}


def allowed(units: Sequence[Unit], keep: Sequence[str], family: str) -> list[Unit]:
    """The units without those that would take something that must stay: mid, down.1, up.2.0 (stage, pair).

    Raises UserError where the teacher has no such block.
    """
    for block in keep:
        _check_there(block, family)
    return [unit for unit in units if not any(_takes(unit, block, family) for block in keep)]


def budget(
    name: str, asked: Description, units: Sequence[Unit], free: Sequence[Unit], family: str, cost: Cost, prices: Prices
) -> float:
    """The most that student `name` may cost: the number, a share of the teacher's, or what another student costs.

    `units` are those that may go, `free` those that could if nothing had to stay. Raises UserError, with the range,
    where no student costs so little, or the teacher does not cost more.
    """
    ((what, given),) = asked.budget.items()
    stages, teacher = len(FAMILIES[family].down), prices.of(whole(family))
    most = _number(name, given, teacher, family, prices)
    least, fewest = (cost(smallest(each, stages, cost)) for each in (units, free))
    here = f"plan.students.{name}: at most {cost_said(most, what)}"
    if fewest <= most < least:
        raise UserError(
            f"{here} cannot be had where {', '.join(asked.keep)} must stay: the smallest such student has "
            f"{cost_said(least, what)}; take one out of keep, or ask for more"
        )
    if not least <= most < teacher:
        raise UserError(
            f"{here} is out of range: the smallest student of this teacher has {cost_said(least, what)} and "
            f"the teacher has {cost_said(teacher, what)}"
            + ("" if asked.attention else "; attention: true makes smaller ones possible")
        )
    return most


def _number(name: str, given: float | str, teacher: float, family: str, prices: Prices) -> float:
    if not isinstance(given, str):
        return teacher * given if given < 1 else given
    plan = STUDENTS[given]
    if plan.family != family:
        raise UserError(
            f"plan.students.{name}: {given} is a student of a teacher of family {plan.family!r}, and this "
            f"teacher is of family {family!r}: name one of its family, or a number"
        )
    return prices.of(plan)


def cost_said(cost: float, what: str) -> str:
    """A cost in words."""
    return f"{cost:,.2f} ms" if what == "ms" else f"{cost:,.0f} {UNITS[what]}"


def _check_there(block: str, family: str) -> None:
    teacher = FAMILIES[family]
    if block == "mid":
        return
    way, stage, *pair = block.split(".")
    stages, pairs = len(teacher.down), teacher.pairs_of(way)
    if int(stage) >= stages or (pair and int(pair[0]) >= pairs):
        raise UserError(
            f"keep: a teacher of family {family!r} has no {block}: {way} has stages 0 to {stages - 1} of {pairs} pairs"
        )


def _takes(unit: Unit, block: str, family: str) -> bool:
    """Whether a unit takes something of a block."""
    stages = len(FAMILIES[family].down)
    if block == "mid":
        return (isinstance(unit, End) and unit.mid != "keep") or (isinstance(unit, Layer) and unit.attention == MID)
    way, place, *pair = block.split(".")
    stage = int(place) if way == "down" else stages - 1 - int(place)
    pairs = [int(number) for number in pair] or list(range(FAMILIES[family].pairs_of(way)))
    if isinstance(unit, End):
        return stage >= stages - unit.removed
    if isinstance(unit, Layer):
        return unit.attention in {f"{way}_blocks.{place}.attentions.{number}" for number in pairs}
    return unit.stage == stage and not all(unit.keeps_attention(way, number) for number in pairs)
