"""What follows from a plan: the student's config, where each of its weights comes from, what is compared.

Pure functions of plan and teacher config; no torch. Module names are those of diffusers' UNet2DConditionModel. Plans
number the blocks of a whole teacher. Of a teacher that is a student itself, of a shipped plan's layout, the numbers are
translated by that plan; where no teacher's config is given, it is a whole one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from prunella.errors import UserError
from prunella.models.families import FAMILIES, family, plain, shape
from prunella.models.families.base import PLAIN, PLAIN_UP
from prunella.params import Mode
from prunella.pruning.layout import layout
from prunella.pruning.plan import Plan
from prunella.pruning.within import lacks

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
    check_fit(plan, teacher_config)
    config = plain(teacher_config)
    for name in PER_STAGE:
        if isinstance(config.get(name), list | tuple):
            config[name] = list(config[name])[: plan.kept]
    config["up_block_types"] = list(teacher_config["up_block_types"])[-plan.kept :]
    for way, plain_stage in (("down", PLAIN), ("up", PLAIN_UP)):
        types = zip(config[f"{way}_block_types"], plan.stages(way), strict=True)
        config[f"{way}_block_types"] = [
            theirs if any(plan.layers_of(way, stage)) else plain_stage for theirs, (stage, _) in types
        ]
    pairs = _single([len(pairs) for _, pairs in plan.stages("down")])
    config["layers_per_block"] = pairs
    config["mid_block_type"] = {"keep": "UNetMidBlock2DCrossAttn", "resnet": "UNetMidBlock2D", "drop": None}[plan.mid]
    if config.get(UP_DEPTHS) is not None:  # the teacher's own, as SSD-1B has them
        config[UP_DEPTHS] = None
    return config | _depths(plan)


def _single(values: list) -> Any:
    """A list whose entries are all the same as that entry."""
    return values[0] if all(value == values[0] for value in values) else values


def _depths(plan: Plan) -> dict[str, Any]:
    """How many transformer layers there are where: by stage, and by pair where a stage's pairs differ.

    Stock diffusers mirrors the down stages' numbers for the up stages unless it is given both, and gives the mid
    block the last down stage's. A stage without attention counts as 1, as in published configs.
    """
    numbers = {
        way: [_single([len(kept) or 1 for kept in plan.layers_of(way, stage)]) for stage, _ in plan.stages(way)]
        for way in ("down", "up")
    }
    if not any(plan.layers_of("down", plan.kept - 1)):
        numbers["down"][-1] = len(plan.mid_layers) or 1
    last = numbers["down"][-1]
    mid = last[0] if isinstance(last, list) else last
    if plan.mid == "keep" and len(plan.mid_layers) != mid:
        raise UserError(
            f"student {plan.name}: the mid block keeps {len(plan.mid_layers)} transformer layers and the last down "
            f"stage {mid}; diffusers' UNet has one number for both"
        )
    if max(plan.teacher.layers) == 1:  # as everywhere in Stable Diffusion 1.x and 2.x, whose configs do not say it
        return {}
    depths = {"transformer_layers_per_block": numbers["down"]}
    uneven = any(isinstance(number, list) for number in numbers["down"])
    if uneven or numbers["up"] != numbers["down"][::-1]:
        depths[UP_DEPTHS] = numbers["up"]
    return depths


def check_fit(plan: Plan, config: dict[str, Any]) -> None:
    """Raises UserError, naming both, where a teacher with this UNet config has not all that the plan keeps, and more.

    It is a whole one of the plan's family, or a student of that which keeps more than the plan.
    """
    found, theirs = family(config), layout(config)
    if theirs and theirs.family == plan.family:
        _check_less(plan, theirs)
    elif found != plan.family:
        known = f"of no known family ({shape(config)}), nor a student of a shipped plan's layout"
        if found:
            known = FAMILIES[found].title
        elif theirs:
            known = f"a student of the layout of {theirs.name} ({theirs.title})"
        raise UserError(
            f"student {plan.name} is made from a teacher of family {plan.family!r} ({plan.teacher.title}); "
            f"this teacher is {known}"
        )


def _check_less(plan: Plan, theirs: Plan) -> None:
    """Raises UserError where the plan keeps something that a student of `theirs` lacks, or all that it has."""
    _check_there(plan, theirs)
    if not lacks(theirs, plan):
        raise UserError(
            f"student {plan.name} keeps all that this teacher has, which is a student itself, of the layout of "
            f"{theirs.name} ({theirs.title}): name a student that keeps less"
        )


def _check_there(plan: Plan, theirs: Plan) -> None:
    if lacking := lacks(plan, theirs):
        raise UserError(
            f"student {plan.name} keeps {lacking} of a whole teacher; this teacher is a student itself, of the layout "
            f"of {theirs.name} ({theirs.title}), and lacks that"
        )


def weight_map(plan: Plan, teacher_config: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Student module prefix → teacher module prefix, for every module inside a stage; the rest keep their names."""
    theirs, places = _layout(plan, teacher_config), _places(plan)
    if theirs is None:
        return places
    own = {whole: ours for ours, whole in _places(theirs).items()}
    return {ours: own[whole] for ours, whole in places.items()}


def _layout(plan: Plan, teacher_config: Mapping[str, Any] | None) -> Plan | None:
    """The plan of a teacher that is a student itself; None of a whole one. Raises UserError where it keeps less."""
    theirs = None if teacher_config is None else layout(teacher_config)
    if theirs:
        _check_there(plan, theirs)
    return theirs


def _places(plan: Plan) -> dict[str, str]:
    """As `weight_map`, of a whole teacher."""
    places = {}
    for way in ("down", "up"):
        for slot, (stage, pairs) in enumerate(plan.stages(way)):
            ours, theirs = f"{way}_blocks.{slot}", f"{way}_blocks.{stage}"
            places[f"{ours}.{way}samplers"] = f"{theirs}.{way}samplers"
            for new, (old, layers) in enumerate(zip(pairs, plan.layers_of(way, stage), strict=True)):
                places[f"{ours}.resnets.{new}"] = f"{theirs}.resnets.{old}"
                if layers:
                    places[f"{ours}.attentions.{new}"] = f"{theirs}.attentions.{old}"
                places |= _layers(f"{ours}.attentions.{new}", f"{theirs}.attentions.{old}", layers)
    if plan.mid == "keep":
        places |= _layers("mid_block.attentions.0", "mid_block.attentions.0", plan.mid_layers)
    return places


def _layers(ours: str, theirs: str, kept: list[int]) -> dict[str, str]:
    return {f"{ours}.transformer_blocks.{k}": f"{theirs}.transformer_blocks.{layer}" for k, layer in enumerate(kept)}


def teacher_key(key: str, places: dict[str, str]) -> str:
    """The teacher's name of a student's weight: up_blocks.0.resnets.1.conv1.bias → up_blocks.1.resnets.2.conv1.bias."""
    parts = key.split(".")
    for length in (6, 5, 4, 3):  # a transformer layer, one of the mid block, a resnet or an attention, a sampler
        prefix = ".".join(parts[:length])
        if prefix in places:
            return ".".join([places[prefix], *parts[length:]])
    if key.startswith(("down_blocks.", "up_blocks.")):
        raise KeyError(key)
    return key


def feature_pairs(
    plan: Plan, mode: Mode | None = None, teacher_config: Mapping[str, Any] | None = None
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
    mode, theirs = mode or plan.features, _layout(plan, teacher_config)
    removed = plan.removed - (theirs.removed if theirs else 0)  # of the stages that the teacher has
    if mode.startswith("block"):
        last = theirs.down[plan.kept - 1] if theirs else None
        pairs = _blocks(plan, mode, removed, len(last) if last else plan.teacher.pairs)
    else:
        pairs = _inside(plan, mode, weight_map(plan, teacher_config))
    return [pair for pair in pairs if not (removed and pair.teacher.startswith("mid_block"))]


def _inside(plan: Plan, mode: Mode, places: dict[str, str]) -> list[FeaturePair]:
    ending = {"sub-block": (".resnets", ".attentions"), "self-attention": (".transformer_blocks",)}[mode]
    places = {ours: theirs for ours, theirs in places.items() if ours.rpartition(".")[0].endswith(ending)}
    if mode == "self-attention":
        return [FeaturePair(f"{ours}.attn1", f"{ours}.attn1", f"{theirs}.attn1") for ours, theirs in places.items()]
    pairs = [FeaturePair(ours, ours, theirs) for ours, theirs in places.items()]
    ours = {"keep": ["mid_block"], "resnet": ["mid_block.resnets.0"], "drop": []}[plan.mid]
    return pairs + [FeaturePair("mid_block", module, "mid_block") for module in ours]


def _blocks(plan: Plan, mode: Mode, removed: int, count: int) -> list[FeaturePair]:
    """Of a teacher that has `removed` stages more, and `count` pairs in the down stage that is the student's last."""
    last = plan.kept - 1
    pairs = [FeaturePair(f"down_blocks.{i}", f"down_blocks.{i}", f"down_blocks.{i}") for i in range(plan.kept)]
    if removed and mode == "block-segmind":
        pairs[last] = pairs[last]._replace(teacher=f"up_blocks.{removed - 1}")
    elif removed:
        inner = "attentions.{}.proj_out" if any(plan.layers_of("down", last)) else "resnets.{}"
        student, teacher = (inner.format(pairs_there - 1) for pairs_there in (len(plan.down[last] or []), count))
        stage = f"down_blocks.{last}"
        pairs[last] = FeaturePair(stage, f"{stage}.{student}", f"{stage}.{teacher}")
    if plan.mid != "drop" and mode == "block-segmind":
        pairs.append(FeaturePair("mid_block", "mid_block", "mid_block"))
    pairs += [FeaturePair(f"up_blocks.{i}", f"up_blocks.{i}", f"up_blocks.{i + removed}") for i in range(plan.kept)]
    return pairs
