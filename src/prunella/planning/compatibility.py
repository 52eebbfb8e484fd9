"""Which other programs would not know a plan's UNet for what it is."""

from prunella.pruning.plan import STUDENTS, Plan


def notes(plan: Plan) -> list[str]:
    """One line for each program that tells models by their layout and does not know this one; [] where all do.

    ComfyUI tells SDXL's relatives by the transformer layers of their down stages and knows those of published models;
    diffusers' `from_single_file` takes a checkpoint's layout to be the original's.
    """
    found = []
    published = [known for known in STUDENTS.values() if known.family == plan.family and known.title != plan.title]
    if plan.family == "sdxl" and _depths(plan) not in [_depths(known) for known in published]:
        found.append(
            "ComfyUI does not recognise a checkpoint of this UNet: its transformer layers are no published model's"
        )
    if _uneven(plan):
        found.append("diffusers' from_single_file does not know its layout (stages differ): use the pipeline folder")
    return found


def _depths(plan: Plan) -> list[list[list[int]]]:
    return [[[len(layers)] for layers in plan.layers_of("down", stage)] for stage, _ in plan.stages("down")]


def _uneven(plan: Plan) -> bool:
    """Whether stages keep unequal numbers of pairs, or have lost their attention."""
    counts = {len(pairs) for _, pairs in plan.stages("down")}
    lost = any(
        plan.teacher.layers_of(way, stage) and not any(plan.layers_of(way, stage))
        for way in ("down", "up")
        for stage, _ in plan.stages(way)
    )
    return len(counts) > 1 or lost
