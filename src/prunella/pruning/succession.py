"""The plans of a distillation's phases, one after the other."""

from collections.abc import Mapping, Sequence

from prunella.errors import UserError
from prunella.params import Phase, unknown
from prunella.pruning.plan import Plan
from prunella.pruning.progressive import partly
from prunella.pruning.within import check_within, same


def succession(phases: Sequence[Phase], own: Plan, known: Mapping[str, Plan]) -> list[Plan]:
    """The plan of each phase of a student whose plan is `own`; those that phases name are among the `known`.

    Raises UserError, naming the phase, where one keeps what the one before lacks, or where the last is not the
    student's.
    """
    plans = [_plan(number, phase, own, known) for number, phase in enumerate(phases)]
    for number in range(1, len(plans)):
        try:
            check_within(plans[number], plans[number - 1])
        except UserError as error:
            raise UserError(
                f"distill.phases.{number}.plan: {error}; no phase may keep what the one before lacks"
            ) from None
    if not same(plans[-1], own):
        raise UserError(
            f"distill.phases.{len(plans) - 1}.plan: {plans[-1].name} is not what student {own.name} keeps; the last "
            "phase's plan is the student's own, which null stands for"
        )
    return plans


def _plan(number: int, phase: Phase, own: Plan, known: Mapping[str, Plan]) -> Plan:
    if phase.plan is None:
        return own
    if isinstance(phase.plan, float):
        return partly(own, phase.plan)
    if phase.plan not in (names := sorted(known)):
        raise UserError(f"distill.phases.{number}.plan: {unknown('plan', phase.plan, names)}")
    return known[phase.plan]
