"""Consequences of a plan: the student's config, where each of its weights comes from, what is compared.

Pure functions of plan and teacher config; no torch. Module names are those of diffusers' UNet2DConditionModel. Plans
number the blocks of a whole teacher. For a teacher that is a student itself, of a shipped plan's layout, the numbers
are translated by that plan; where no teacher's config is given, it is a whole one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.models.families import FAMILIES, describe_unet_shape, detect_teacher_family, strip_private_keys
from prunella.models.families.base import PLAIN_DOWN, PLAIN_UP
from prunella.params import FeatureMode
from prunella.pruning.layout import find_matching_plan
from prunella.pruning.plan import Plan
from prunella.pruning.within import find_missing_block

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
UP_DEPTHS = "reverse_transformer_layers_per_block"  # beside transformer_layers_per_block, where that is not mirrored


class FeaturePair(NamedTuple):
    """Two modules whose outputs have the same shape; `name` is what its loss is logged as."""

    name: str
    student: str
    teacher: str


def student_config(plan: Plan, teacher_config: dict[str, Any]) -> dict[str, Any]:
    """The diffusers config of the student. Raises UserError where the plan does not fit the teacher."""
    check_plan_compatible(plan, teacher_config)
    config = strip_private_keys(teacher_config)
    for name in PER_STAGE:
        if isinstance(config.get(name), list | tuple):
            config[name] = list(config[name])[: plan.num_kept_stages]
    config["up_block_types"] = list(teacher_config["up_block_types"])[-plan.num_kept_stages :]
    for direction, plain_type in (("down", PLAIN_DOWN), ("up", PLAIN_UP)):
        typed_stages = zip(config[f"{direction}_block_types"], plan.list_kept_stages(direction), strict=True)
        config[f"{direction}_block_types"] = [
            block_type if any(plan.list_kept_layers(direction, stage)) else plain_type
            for block_type, (stage, _) in typed_stages
        ]
    blocks_per_stage = _collapse_equal([len(blocks_per_stage) for _, blocks_per_stage in plan.list_kept_stages("down")])
    config["layers_per_block"] = blocks_per_stage
    config["mid_block_type"] = {"keep": "UNetMidBlock2DCrossAttn", "resnet": "UNetMidBlock2D", "drop": None}[plan.mid]
    if config.get(UP_DEPTHS) is not None:  # the teacher's own, as SSD-1B has them
        config[UP_DEPTHS] = None
    return config | _layer_depths(plan)


def _collapse_equal(values: list) -> Any:
    """A list whose entries are all the same as that entry."""
    return values[0] if all(value == values[0] for value in values) else values


def _layer_depths(plan: Plan) -> dict[str, Any]:
    """How many transformer layers there are where: by stage, and by pair where a stage's pairs differ.

    Stock diffusers mirrors the down stages' numbers for the up stages unless it is given both, and gives the mid
    block the last down stage's. A stage without attention counts as 1, as in published configs.
    """
    depths_by_direction = {
        direction: [
            _collapse_equal([len(kept_layers) or 1 for kept_layers in plan.list_kept_layers(direction, stage)])
            for stage, _ in plan.list_kept_stages(direction)
        ]
        for direction in ("down", "up")
    }
    if not any(plan.list_kept_layers("down", plan.num_kept_stages - 1)):
        depths_by_direction["down"][-1] = len(plan.mid_layers) or 1
    last_down = depths_by_direction["down"][-1]
    mid_depth = last_down[0] if isinstance(last_down, list) else last_down
    if plan.mid == "keep" and len(plan.mid_layers) != mid_depth:
        raise UserError(
            f"student {plan.name}: the mid block keeps {len(plan.mid_layers)} transformer layers and the last down "
            f"stage {mid_depth}; diffusers' UNet has one number for both"
        )
    if (
        max(plan.teacher_family.transformer_layers) == 1
    ):  # as everywhere in Stable Diffusion 1.x and 2.x, whose configs do not say it
        return {}
    depths = {"transformer_layers_per_block": depths_by_direction["down"]}
    uneven = any(isinstance(depth, list) for depth in depths_by_direction["down"])
    if uneven or depths_by_direction["up"] != depths_by_direction["down"][::-1]:
        depths[UP_DEPTHS] = depths_by_direction["up"]
    return depths


def check_plan_compatible(plan: Plan, teacher_config: dict[str, Any]) -> None:
    """Raises UserError, naming both, where a teacher with this UNet config has not all that the plan keeps, and more.

    It is a whole one of the plan's family, or a student of that which keeps more than the plan.
    """
    teacher_family, teacher_plan = detect_teacher_family(teacher_config), find_matching_plan(teacher_config)
    if teacher_plan and teacher_plan.family == plan.family:
        _check_removes_blocks(plan, teacher_plan)
    elif teacher_family != plan.family:
        description = (
            f"of no known family ({describe_unet_shape(teacher_config)}), nor a student of a shipped plan's layout"
        )
        if teacher_family:
            description = FAMILIES[teacher_family].title
        elif teacher_plan:
            description = f"a student of the layout of {teacher_plan.name} ({teacher_plan.title})"
        raise UserError(
            f"student {plan.name} is made from a teacher of family {plan.family!r} ({plan.teacher_family.title}); "
            f"this teacher is {description}"
        )


def _check_removes_blocks(plan: Plan, teacher_plan: Plan) -> None:
    """Raises UserError where the plan keeps something that a student of `teacher_plan` lacks, or all that it has."""
    _check_within_teacher(plan, teacher_plan)
    if not find_missing_block(teacher_plan, plan):
        raise UserError(
            f"student {plan.name} keeps all that this teacher has, which is a student itself, of the layout of "
            f"{teacher_plan.name} ({teacher_plan.title}): name a student that keeps less"
        )


def _check_within_teacher(plan: Plan, teacher_plan: Plan) -> None:
    if missing := find_missing_block(plan, teacher_plan):
        raise UserError(
            f"student {plan.name} keeps {missing} of a whole teacher; this teacher is a student itself, of the layout "
            f"of {teacher_plan.name} ({teacher_plan.title}), and lacks that"
        )


def weight_map(plan: Plan, teacher_config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Student module prefix → teacher module prefix, for every module inside a stage; the rest keep their names."""
    teacher_plan, full_map = _find_teacher_plan(plan, teacher_config), _full_weight_map(plan)
    if teacher_plan is None:
        return full_map
    teacher_names = {full_name: reduced_name for reduced_name, full_name in _full_weight_map(teacher_plan).items()}
    return {reduced_name: teacher_names[full_name] for reduced_name, full_name in full_map.items()}


def _find_teacher_plan(plan: Plan, teacher_config: Mapping[str, Any] | None) -> Plan | None:
    """The plan of a teacher that is a student itself; None of a whole one. Raises UserError where it keeps less."""
    teacher_plan = None if teacher_config is None else find_matching_plan(teacher_config)
    if teacher_plan:
        _check_within_teacher(plan, teacher_plan)
    return teacher_plan


def _full_weight_map(plan: Plan) -> dict[str, str]:
    """Like `weight_map`, of a whole teacher."""
    module_map = {}
    for direction in ("down", "up"):
        for student_stage, (stage, blocks) in enumerate(plan.list_kept_stages(direction)):
            student_prefix, teacher_prefix = f"{direction}_blocks.{student_stage}", f"{direction}_blocks.{stage}"
            module_map[f"{student_prefix}.{direction}samplers"] = f"{teacher_prefix}.{direction}samplers"
            for student_block, (teacher_block, layers) in enumerate(
                zip(blocks, plan.list_kept_layers(direction, stage), strict=True)
            ):
                module_map[f"{student_prefix}.resnets.{student_block}"] = f"{teacher_prefix}.resnets.{teacher_block}"
                if layers:
                    module_map[f"{student_prefix}.attentions.{student_block}"] = (
                        f"{teacher_prefix}.attentions.{teacher_block}"
                    )
                module_map |= _map_layers(
                    f"{student_prefix}.attentions.{student_block}",
                    f"{teacher_prefix}.attentions.{teacher_block}",
                    layers,
                )
    if plan.mid == "keep":
        module_map |= _map_layers("mid_block.attentions.0", "mid_block.attentions.0", plan.mid_layers)
    return module_map


def _map_layers(student_prefix: str, teacher_prefix: str, kept_layers: list[int]) -> dict[str, str]:
    return {
        f"{student_prefix}.transformer_blocks.{k}": f"{teacher_prefix}.transformer_blocks.{layer}"
        for k, layer in enumerate(kept_layers)
    }


def teacher_key(key: str, module_map: dict[str, str]) -> str:
    """The teacher's name of a student's weight: up_blocks.0.resnets.1.conv1.bias → up_blocks.1.resnets.2.conv1.bias."""
    parts = key.split(".")
    for length in (6, 5, 4, 3):  # a transformer layer, one of the mid block, a resnet or an attention, a sampler
        prefix = ".".join(parts[:length])
        if prefix in module_map:
            return ".".join([module_map[prefix], *parts[length:]])
    if key.startswith(("down_blocks.", "up_blocks.")):
        raise KeyError(key)
    return key


def feature_pairs(
    plan: Plan, mode: FeatureMode | None = None, teacher_config: Mapping[str, Any] | None = None
) -> list[FeaturePair]:
    """Modules to compare, student with teacher; `mode` None takes the plan's own.

    * `block-bk`: outputs of down and up stages, the mid block left out (BK-SDM kd_train_text_to_image.py).
    * `block-segmind`: the same and the mid block, where there is one (segmind/distill-sd).
    * `sub-block`: the output of every resnet and every attention, and of the mid block (segmind/SSD-1B).
    * `self-attention`: the output of the self-attention of every transformer layer (KOALA, arXiv 2312.04005).

    A student's part is compared with the part of the teacher that its weights come from. In the block modes, where
    the deepest stages are removed, the student's last down stage has no downsampler, so its output has the size of
    an earlier point of the teacher: `block-bk` compares the last attention inside that stage (the last resnet where
    there is none), `block-segmind` the output of the teacher's last removed up stage. The mid block that such a
    student keeps works on a larger picture than the teacher's, so nothing in it is compared.
    """
    mode, teacher_plan = mode or plan.features, _find_teacher_plan(plan, teacher_config)
    num_removed = plan.num_removed_stages - (
        teacher_plan.num_removed_stages if teacher_plan else 0
    )  # of the stages that the teacher has
    if mode.startswith("block"):
        last_stage = teacher_plan.down[plan.num_kept_stages - 1] if teacher_plan else None
        pairs = _block_feature_pairs(
            plan, mode, num_removed, len(last_stage) if last_stage else plan.teacher_family.layers_per_block
        )
    else:
        pairs = _inner_feature_pairs(plan, mode, weight_map(plan, teacher_config))
    return [pair for pair in pairs if not (num_removed and pair.teacher.startswith("mid_block"))]


def _inner_feature_pairs(plan: Plan, mode: FeatureMode, module_map: dict[str, str]) -> list[FeaturePair]:
    parent_suffixes = {"sub-block": (".resnets", ".attentions"), "self-attention": (".transformer_blocks",)}[mode]
    module_map = {
        student_module: teacher_module
        for student_module, teacher_module in module_map.items()
        if student_module.rpartition(".")[0].endswith(parent_suffixes)
    }
    if mode == "self-attention":
        return [
            FeaturePair(f"{student_module}.attn1", f"{student_module}.attn1", f"{teacher_module}.attn1")
            for student_module, teacher_module in module_map.items()
        ]
    pairs = [
        FeaturePair(student_module, student_module, teacher_module)
        for student_module, teacher_module in module_map.items()
    ]
    student_module = {"keep": ["mid_block"], "resnet": ["mid_block.resnets.0"], "drop": []}[plan.mid]
    return pairs + [FeaturePair("mid_block", module, "mid_block") for module in student_module]


def _block_feature_pairs(plan: Plan, mode: FeatureMode, num_removed: int, num_teacher_blocks: int) -> list[FeaturePair]:
    """For a teacher that has `num_removed` stages more, and `num_teacher_blocks` pairs in the down stage that is the
    student's last.
    """
    last = plan.num_kept_stages - 1
    pairs = [
        FeaturePair(f"down_blocks.{i}", f"down_blocks.{i}", f"down_blocks.{i}") for i in range(plan.num_kept_stages)
    ]
    if num_removed and mode == "block-segmind":
        pairs[last] = pairs[last]._replace(teacher=f"up_blocks.{num_removed - 1}")
    elif num_removed:
        inner_name = "attentions.{}.proj_out" if any(plan.list_kept_layers("down", last)) else "resnets.{}"
        student, teacher = (
            inner_name.format(num_blocks - 1) for num_blocks in (len(plan.down[last] or []), num_teacher_blocks)
        )
        stage = f"down_blocks.{last}"
        pairs[last] = FeaturePair(stage, f"{stage}.{student}", f"{stage}.{teacher}")
    if plan.mid != "drop" and mode == "block-segmind":
        pairs.append(FeaturePair("mid_block", "mid_block", "mid_block"))
    pairs += [
        FeaturePair(f"up_blocks.{i}", f"up_blocks.{i}", f"up_blocks.{i + num_removed}")
        for i in range(plan.num_kept_stages)
    ]
    return pairs
