"""Why a student that chose itself is as it is, from the evidence beside its plan."""

from pathlib import Path
from typing import Any

from prunella.reporting.summary import format_table
from prunella.storage.files import read_json

RUNNERS_UP = 5


def read_plan_evidence(plan: Path) -> dict[str, Any]:
    """The evidence that the plan stage wrote beside a plan's file; {} where the plan was not chosen."""
    path = plan.with_suffix(".json")
    content: dict[str, Any] = read_json(path) if path.is_file() else {}
    return content if content.get("chosen") else {}


def explain_plan(plan_evidence: dict[str, Any]) -> str:
    """Lines for a terminal: the budget, what is lacking and what it matters, what nearly won, what stayed."""
    budget_unit, removed_units = (
        plan_evidence["budget"]["of"],
        [unit for unit in plan_evidence["units"] if unit["taken"]],
    )
    cheapest_units = [
        min((unit for unit in plan_evidence["units"] if unit["group"] == group), key=lambda unit: unit["error"])
        for group in plan_evidence["kept_whole"]
    ]
    return "\n".join(
        [
            f"chosen under a budget of {_format_cost_value(plan_evidence['budget']['most'], budget_unit)} "
            f"{budget_unit} (asked: {plan_evidence['budget']['asked']})",
            "",
            "lacking, with the output error of a student that lacks it alone:",
            format_table(
                [
                    ["unit", "error", f"saves {budget_unit}"],
                    *(_format_unit_row(unit, budget_unit) for unit in removed_units),
                ]
            ),
            *(["", "kept whole, with the least that would go of it:"] if cheapest_units else []),
            *(
                [
                    format_table(
                        [
                            ["unit", "error", f"saves {budget_unit}"],
                            *(_format_unit_row(unit, budget_unit) for unit in cheapest_units),
                        ]
                    )
                ]
                if cheapest_units
                else []
            ),
            "",
            "the choice, runners-up and hand-made students; errors before training, and after the tournament's rounds:",
            format_table(
                [
                    ["student", budget_unit, "predicted", "error", "after rounds"],
                    *_format_candidate_rows(plan_evidence, budget_unit),
                ]
            ),
            *plan_evidence["notes"],
        ]
    )


def _format_unit_row(unit: dict[str, Any], budget_unit: str) -> list[str]:
    return [unit["name"], f"{unit['error']:.3g}", _format_cost_value(unit["saves"][budget_unit], budget_unit)]


def _format_candidate_rows(plan_evidence: dict[str, Any], budget_unit: str) -> list[list[str]]:
    ranked_choices = sorted(plan_evidence["choices"], key=lambda choice: not choice["chosen"])[:RUNNERS_UP]
    rows = []
    for number, choice in enumerate(ranked_choices):
        round_errors = ", ".join(f"{student['error']:.3g}" for student in choice["after_rounds"])
        name = plan_evidence["student"] if choice["chosen"] else f"runner-up {number}"
        rows.append(
            [
                name,
                _format_cost_value(choice[budget_unit], budget_unit),
                f"{choice['predicted']:.3g}",
                f"{choice['error']:.3g}",
                round_errors or "–",
            ]
        )
    return rows + [
        [student["name"], _format_cost_value(student[budget_unit], budget_unit), "–", f"{student['error']:.3g}", "–"]
        for student in plan_evidence["hand_made"]
    ]


def _format_cost_value(cost: float, budget_unit: str) -> str:
    return f"{cost:,.2f}" if budget_unit == "ms" else f"{cost:,.0f}"
