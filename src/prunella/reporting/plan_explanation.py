"""Why a student that chose itself is as it is, from the evidence beside its plan."""

from pathlib import Path
from typing import Any

from prunella.reporting.summary import aligned
from prunella.storage.files import read_json

RUNNERS_UP = 5


def evidence(plan: Path) -> dict[str, Any]:
    """What the plan stage wrote beside a plan's file; {} where the plan was not chosen."""
    path = plan.with_suffix(".json")
    told: dict[str, Any] = read_json(path) if path.is_file() else {}
    return told if told.get("chosen") else {}


def reasons(told: dict[str, Any]) -> str:
    """Lines for a terminal: the budget, what is lacking and what it matters, what nearly won, what stayed."""
    what, taken = told["budget"]["of"], [unit for unit in told["units"] if unit["taken"]]
    least = [
        min((unit for unit in told["units"] if unit["group"] == group), key=lambda unit: unit["error"])
        for group in told["kept_whole"]
    ]
    return "\n".join(
        [
            f"chosen under a budget of {_cost(told['budget']['most'], what)} {what} (asked: {told['budget']['asked']})",
            "",
            "lacking, with the output error of a student that lacks it alone:",
            aligned([["unit", "error", f"saves {what}"], *(_unit(unit, what) for unit in taken)]),
            *(["", "kept whole, with the least that would go of it:"] if least else []),
            *([aligned([["unit", "error", f"saves {what}"], *(_unit(unit, what) for unit in least)])] if least else []),
            "",
            "the choice, runners-up and hand-made students; errors before training, and after the tournament's rounds:",
            aligned([["student", what, "predicted", "error", "after rounds"], *_students(told, what)]),
            *told["notes"],
        ]
    )


def _unit(unit: dict[str, Any], what: str) -> list[str]:
    return [unit["name"], f"{unit['error']:.3g}", _cost(unit["saves"][what], what)]


def _students(told: dict[str, Any], what: str) -> list[list[str]]:
    ranked = sorted(told["choices"], key=lambda choice: not choice["chosen"])[:RUNNERS_UP]
    rows = []
    for number, choice in enumerate(ranked):
        after = ", ".join(f"{each['error']:.3g}" for each in choice["after_rounds"])
        name = told["student"] if choice["chosen"] else f"runner-up {number}"
        rows.append(
            [name, _cost(choice[what], what), f"{choice['predicted']:.3g}", f"{choice['error']:.3g}", after or "–"]
        )
    return rows + [
        [each["name"], _cost(each[what], what), "–", f"{each['error']:.3g}", "–"] for each in told["hand_made"]
    ]


def _cost(cost: float, what: str) -> str:
    return f"{cost:,.2f}" if what == "ms" else f"{cost:,.0f}"
