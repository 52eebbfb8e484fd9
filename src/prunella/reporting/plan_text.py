"""A plan in words: what is kept, what is removed, how the config changes, what is compared."""

from typing import Any

from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan


def description(plan: Plan, teacher: dict[str, Any]) -> str:
    """Lines for a terminal, for a teacher with the UNet config `teacher`. Raises UserError where that does not fit."""
    config = student_config(plan, teacher)
    changed = {name: value for name, value in config.items() if teacher.get(name) != value}
    pairs = feature_pairs(plan, teacher_config=teacher)
    return "\n".join(
        [
            f"{plan.name}: {plan.title}, from {plan.teacher.title}",
            f"source: {plan.source}",
            "",
            *_stages(plan, "down"),
            f"mid     {_mid(plan)}",
            *_stages(plan, "up"),
            "",
            "UNet config, where it differs from the teacher's:",
            *(f"  {name}: {teacher.get(name)} → {value}" for name, value in sorted(changed.items())),
            "",
            f"compared features ({plan.features}), student with teacher:",
            *(f"  {pair.student} – {pair.teacher}" for pair in pairs),
        ]
    )


def _stages(plan: Plan, way: str) -> list[str]:
    every = list(range(plan.teacher.pairs_of(way)))
    lines = []
    for stage, pairs in enumerate(getattr(plan, way)):
        if pairs is None:
            lines.append(f"{way:4} {stage}  removed")
            continue
        gone = [pair for pair in every if pair not in pairs]
        text = f"keeps pairs {_listed(pairs)}" + (f", removes {_listed(gone)}" if gone else "")
        count = plan.teacher.layers_of(way, stage)
        if count and not any(plan.layers_of(way, stage)):
            text, count = f"{text}; without attention", 0
        for pair, layers in zip(pairs, plan.layers_of(way, stage), strict=True):
            if len(layers) < count:
                text += f"; of pair {pair}'s {count} transformer layers {_listed(layers)}"
        lines.append(f"{way:4} {stage}  {text}")
    return lines


def _mid(plan: Plan) -> str:
    if plan.mid == "drop":
        return "removed"
    if plan.mid == "resnet":
        return "keeps the first resnet alone"
    count = plan.teacher.mid
    fewer = f"; of its {count} transformer layers {_listed(plan.mid_layers)}" if len(plan.mid_layers) < count else ""
    return f"kept{fewer}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
