"""Programs that would not know a plan's UNet for what it is."""

from prunella.pruning.plan import STUDENTS, Plan


def compatibility_notes(plan: Plan) -> list[str]:
    """One line for each program that tells models by their layout and does not know this one; [] where all do.

    ComfyUI tells SDXL's relatives by the transformer layers of their down stages and knows those of published models;
    diffusers' `from_single_file` takes a checkpoint's layout to be the original's.
    """
    messages = []
    published = [
        student_plan
        for student_plan in STUDENTS.values()
        if student_plan.family == plan.family and student_plan.title != plan.title
    ]
    if plan.family == "sdxl" and _down_layer_counts(plan) not in [
        _down_layer_counts(student_plan) for student_plan in published
    ]:
        messages.append(
            "ComfyUI does not recognise a checkpoint of this UNet: its transformer layers are no published model's"
        )
    if _is_uneven(plan):
        messages.append("diffusers' from_single_file does not know its layout (stages differ): use the pipeline folder")
    return messages


def _down_layer_counts(plan: Plan) -> list[list[list[int]]]:
    return [
        [[len(layers)] for layers in plan.list_kept_layers("down", stage)] for stage, _ in plan.list_kept_stages("down")
    ]


def _is_uneven(plan: Plan) -> bool:
    """Whether stages keep unequal numbers of pairs, or have lost their attention."""
    counts = {len(pairs) for _, pairs in plan.list_kept_stages("down")}
    lost_attention = any(
        plan.teacher_family.transformer_layers_at(direction, stage) and not any(plan.list_kept_layers(direction, stage))
        for direction in ("down", "up")
        for stage, _ in plan.list_kept_stages(direction)
    )
    return len(counts) > 1 or lost_attention
