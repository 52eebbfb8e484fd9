"""A plan in words: what is kept, what is removed, how the config changes, what is compared."""

from typing import Any

from prunella.pruning.mapping import feature_pairs, student_config
from prunella.pruning.plan import Plan


def format_plan_text(plan: Plan, teacher_config: dict[str, Any]) -> str:
    """Lines for a terminal, for a teacher with the UNet config `teacher_config`.

    Raises UserError where that does not fit.
    """
    config = student_config(plan, teacher_config)
    changed = {name: value for name, value in config.items() if teacher_config.get(name) != value}
    feature_names = feature_pairs(plan, teacher_config=teacher_config)
    return "\n".join(
        [
            f"{plan.name}: {plan.title}, from {plan.teacher_family.title}",
            f"source: {plan.source}",
            "",
            *_describe_stages(plan, "down"),
            f"mid     {_describe_mid(plan)}",
            *_describe_stages(plan, "up"),
            "",
            "UNet config, where it differs from the teacher's:",
            *(f"  {name}: {teacher_config.get(name)} → {value}" for name, value in sorted(changed.items())),
            "",
            f"compared features ({plan.features}), student with teacher:",
            *(f"  {feature.student} – {feature.teacher}" for feature in feature_names),
        ]
    )


def _describe_stages(plan: Plan, way: str) -> list[str]:
    all_blocks = list(range(plan.teacher_family.blocks_per_stage(way)))
    lines = []
    for stage, blocks in enumerate(getattr(plan, way)):
        if blocks is None:
            lines.append(f"{way:4} {stage}  removed")
            continue
        removed_blocks = [block for block in all_blocks if block not in blocks]
        text = f"keeps pairs {_join_numbers(blocks)}" + (
            f", removes {_join_numbers(removed_blocks)}" if removed_blocks else ""
        )
        count = plan.teacher_family.transformer_layers_at(way, stage)
        if count and not any(plan.list_kept_layers(way, stage)):
            text, count = f"{text}; without attention", 0
        for block, layers in zip(blocks, plan.list_kept_layers(way, stage), strict=True):
            if len(layers) < count:
                text += f"; of pair {block}'s {count} transformer layers {_join_numbers(layers)}"
        lines.append(f"{way:4} {stage}  {text}")
    return lines


def _describe_mid(plan: Plan) -> str:
    if plan.mid == "drop":
        return "removed"
    if plan.mid == "resnet":
        return "keeps the first resnet alone"
    count = plan.teacher_family.mid_layers
    layers_text = (
        f"; of its {count} transformer layers {_join_numbers(plan.mid_layers)}" if len(plan.mid_layers) < count else ""
    )
    return f"kept{layers_text}"


def _join_numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
