"""The plans of a distillation's phases, one after the other."""

from collections.abc import Mapping, Sequence

from prunella.errors import UserError
from prunella.params import Phase, did_you_mean
from prunella.pruning.plan import Plan
from prunella.pruning.progressive import plan_at_fraction
from prunella.pruning.within import check_subset, keep_same_blocks


def resolve_phase_plans(phases: Sequence[Phase], student_plan: Plan, named_plans: Mapping[str, Plan]) -> list[Plan]:
    """The plan of each phase of a student whose plan is `student_plan`; those that phases name are among the
    `named_plans`.

    Raises UserError, naming the phase, where one keeps what the one before lacks, or where the last is not the
    student's.
    """
    plans = [_resolve_phase_plan(number, phase, student_plan, named_plans) for number, phase in enumerate(phases)]
    for number in range(1, len(plans)):
        try:
            check_subset(plans[number], plans[number - 1])
        except UserError as error:
            raise UserError(
                f"distill.phases.{number}.plan: {error}; no phase may keep what the one before lacks"
            ) from None
    if not keep_same_blocks(plans[-1], student_plan):
        raise UserError(
            f"distill.phases.{len(plans) - 1}.plan: {plans[-1].name} is not what student {student_plan.name} keeps; "
            "the last "
            "phase's plan is the student's own, which null stands for"
        )
    return plans


def _resolve_phase_plan(number: int, phase: Phase, student_plan: Plan, named_plans: Mapping[str, Plan]) -> Plan:
    if phase.plan is None:
        return student_plan
    if isinstance(phase.plan, float):
        return plan_at_fraction(student_plan, phase.plan)
    if phase.plan not in (plan_names := sorted(named_plans)):
        raise UserError(f"distill.phases.{number}.plan: {did_you_mean('plan', phase.plan, plan_names)}")
    return named_plans[phase.plan]
