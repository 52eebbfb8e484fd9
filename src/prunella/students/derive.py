"""What follows from a plan: the student's config, where each of its weights comes from, what is compared.

Pure functions of plan and teacher config; no torch. Module names are those of diffusers' UNet2DConditionModel.
"""

from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.students.families import family
from prunella.students.plan import Mode, Plan

# Config entries that hold one value per stage, in the order of the down stages.
PER_STAGE = (
    "block_out_channels",
    "down_block_types",
    "attention_head_dim",
    "num_attention_heads",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "only_cross_attention",
)


class FeaturePair(NamedTuple):
    """Two modules whose outputs have the same shape; `name` is what its loss is logged as."""

    name: str
    student: str
    teacher: str


def student_config(plan: Plan, teacher_config: dict[str, Any]) -> dict[str, Any]:
    """The diffusers config of the student. Raises UserError where the plan does not fit the teacher."""
    _check_fit(plan, teacher_config)
    # diffusers keeps notes under "_…"; with "_use_default_values" among them from_config would undo our changes.
    config = {name: value for name, value in teacher_config.items() if not name.startswith("_")}
    for name in PER_STAGE:
        if isinstance(config.get(name), list | tuple):
            config[name] = list(config[name])[: plan.kept]
    config["up_block_types"] = list(teacher_config["up_block_types"])[plan.removed :]
    layers = [len(pairs) for pairs in plan.down[: plan.kept]]
    config["layers_per_block"] = layers[0] if len(set(layers)) == 1 else layers
    if plan.mid == "drop":
        config["mid_block_type"] = None
    return config


def _check_fit(plan: Plan, config: dict[str, Any]) -> None:
    found = family(config)
    if found != plan.family:
        types = ", ".join(config.get("down_block_types", ())) or "none"
        raise UserError(
            f"student {plan.name} is made from a teacher of family {plan.family!r}; "
            f"this teacher is {found or 'of no known family'} (down blocks: {types})"
        )
    layers = config["layers_per_block"]
    per_stage = list(layers) if isinstance(layers, list | tuple) else [layers] * len(plan.down)
    for way, stages, counts in (("down", plan.down, per_stage), ("up", plan.up, [n + 1 for n in per_stage[::-1]])):
        for i, (pairs, count) in enumerate(zip(stages, counts, strict=True)):
            if pairs and pairs[-1] >= count:
                raise UserError(
                    f"student {plan.name}: {way} stage {i} keeps pair {pairs[-1]}, "
                    f"but the teacher has pairs 0 to {count - 1} there"
                )


def weight_map(plan: Plan) -> dict[str, str]:
    """Student module prefix → teacher module prefix, for every module inside a stage; the rest keep their names."""
    places = {}
    for way, stages in (("down", plan.down), ("up", plan.up)):
        kept = [(i, pairs) for i, pairs in enumerate(stages) if pairs is not None]
        for slot, (stage, pairs) in enumerate(kept):
            for kind in ("resnets", "attentions"):
                for new, old in enumerate(pairs):
                    places[f"{way}_blocks.{slot}.{kind}.{new}"] = f"{way}_blocks.{stage}.{kind}.{old}"
            sampler = f"{way}samplers"
            places[f"{way}_blocks.{slot}.{sampler}"] = f"{way}_blocks.{stage}.{sampler}"
    return places


def teacher_key(key: str, places: dict[str, str]) -> str:
    """The teacher's name of a student's weight: up_blocks.0.resnets.1.conv1.bias → up_blocks.1.resnets.2.conv1.bias."""
    if not key.startswith(("down_blocks.", "up_blocks.")):
        return key
    parts = key.split(".")
    for length in (4, 3):
        prefix = ".".join(parts[:length])
        if prefix in places:
            return ".".join([places[prefix], *parts[length:]])
    raise KeyError(key)


def feature_pairs(plan: Plan, mode: Mode | None = None) -> list[FeaturePair]:
    """Modules to compare, student with teacher; `mode` None takes the plan's own.

    Where the deepest stages are removed, the student's last down stage has no downsampler, so its output has the
    size of an earlier point of the teacher. `block-bk` compares the last attention inside that stage and leaves
    the mid block out (BK-SDM kd_train_text_to_image.py); `block-segmind` compares it with the output of the
    teacher's last removed up stage and takes the mid block where there is one (segmind/distill-sd).
    """
    mode = mode or plan.features
    last, removed = plan.kept - 1, plan.removed
    pairs = [FeaturePair(f"down_blocks.{i}", f"down_blocks.{i}", f"down_blocks.{i}") for i in range(plan.kept)]
    if removed and mode == "block-segmind":
        pairs[last] = pairs[last]._replace(teacher=f"up_blocks.{removed - 1}")
    elif removed:
        inner = f"down_blocks.{last}.attentions"
        # The teacher's last attention there: its up stages have one pair more, and plans keep the last of those.
        student, teacher = len(plan.down[last]) - 1, plan.up[removed][-1] - 1
        pairs[last] = FeaturePair(pairs[last].name, f"{inner}.{student}.proj_out", f"{inner}.{teacher}.proj_out")
    if plan.mid == "keep" and mode == "block-segmind":
        pairs.append(FeaturePair("mid_block", "mid_block", "mid_block"))
    pairs += [FeaturePair(f"up_blocks.{i}", f"up_blocks.{i}", f"up_blocks.{i + removed}") for i in range(plan.kept)]
    return pairs
