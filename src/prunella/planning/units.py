"""Units: what a student can lack by itself, and the plan of a student that lacks some of them.

A unit is one way of thinning a stage, down and up together (they share skips), with or without its attention; one end
of the UNet, which is how much of the mid block and of the deepest stages is gone; or, where attentions have several,
one transformer layer. A student lacks at most one of the units of a group. Needs no torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations
from typing import Any, Literal, NamedTuple, cast

from prunella.models.families import FAMILIES
from prunella.params import FeatureMode
from prunella.pruning.plan import Plan, PlanLayers

DEFAULT_FEATURES: dict[str, FeatureMode] = {
    "sd": "block-segmind",
    "sdxl": "sub-block",
}  # compared while a chosen student learns
DIRECTIONS = ("down", "up")
MidOption = Literal["keep", "resnet", "drop"]
MID_OPTIONS: tuple[MidOption, ...] = ("keep", "resnet", "drop")


class ThinStage(NamedTuple):
    """A stage, numbered from above, keeps these pairs; in the directions `without_attention` it has no attention."""

    stage: int
    down: tuple[int, ...]
    up: tuple[int, ...]
    without_attention: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return f"stage {self.stage}"

    @property
    def name(self) -> str:
        description = f"stage {self.stage} keeps down {_format_numbers(self.down)}, up {_format_numbers(self.up)}"
        return description + (
            f", no attention {' and '.join(self.without_attention)}" if self.without_attention else ""
        )

    def keeps_attention(self, direction: str, block: int) -> bool:
        """Whether a pair of the down or up stage is kept with its attention."""
        return direction not in self.without_attention and block in getattr(self, direction)


class DropDeepest(NamedTuple):
    """The deepest `num_removed` stages are gone, and of the mid block this is left."""

    num_removed: int
    mid: MidOption

    @property
    def group(self) -> str:
        return "end"

    @property
    def name(self) -> str:
        removed_text = {0: [], 1: ["deepest stage gone"]}.get(
            self.num_removed, [f"deepest {self.num_removed} stages gone"]
        )
        mid_text = {"keep": [], "resnet": ["mid block's first resnet alone"], "drop": ["mid block gone"]}[self.mid]
        return ", ".join(removed_text + mid_text) or "all there"


class DropLayer(NamedTuple):
    """A transformer layer of an attention, which is named as in diffusers' UNet2DConditionModel, is gone."""

    attention: str
    layer: int

    @property
    def group(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"{self.attention}.transformer_blocks.{self.layer}"


Unit = ThinStage | DropDeepest | DropLayer
MID_ATTENTION = "mid_block.attentions.0"


def list_units(family: str, unet_config: Mapping[str, Any], may_drop_attention: bool) -> list[Unit]:
    """Every unit that a student of this teacher can lack; without `may_drop_attention` all stages keep theirs.

    Left out are those whose weights would have other shapes than the teacher's: where a stage changes the width, its
    first resnet down and its first and last up cannot be replaced by others.
    """
    num_stages = len(FAMILIES[family].down_block_types)
    candidates: list[Unit] = [
        drop_unit
        for num_removed in range(num_stages)
        for mid_option in MID_OPTIONS
        if (drop_unit := DropDeepest(num_removed, mid_option)) != DropDeepest(0, "keep")
        and _is_drop_valid(drop_unit, unet_config)
    ]
    for stage in range(num_stages):
        candidates += [
            thin_unit
            for thin_unit in _iter_thinnings(family, stage, may_drop_attention)
            if _is_thinning_valid(thin_unit, unet_config)
        ]
    return candidates + list(_iter_layer_units(family))


def full_plan(family: str) -> Plan:
    """The plan that keeps all."""
    return plan_without(family, [])


def plan_without(family: str, removed_units: Iterable[Unit], name: str = "auto", source: str = "chosen") -> Plan:
    """The plan of a student without the units `removed_units`, of which each group has one at most.

    Raises pydantic's ValidationError where they leave an attention without layers.
    """
    teacher_family, removed_units = FAMILIES[family], list(removed_units)
    drop_unit = next((unit for unit in removed_units if isinstance(unit, DropDeepest)), DropDeepest(0, "keep"))
    num_stages = len(teacher_family.down_block_types)
    kept_blocks: dict[str, list] = {
        direction: [list(range(teacher_family.blocks_per_stage(direction)))] * num_stages for direction in DIRECTIONS
    }
    layer_lists: dict[str, dict[int, list]] = {direction: {} for direction in DIRECTIONS}
    for thin_unit in (unit for unit in removed_units if isinstance(unit, ThinStage)):
        for direction in DIRECTIONS:
            stage_index = thin_unit.stage if direction == "down" else num_stages - 1 - thin_unit.stage
            kept_blocks[direction][stage_index] = list(getattr(thin_unit, direction))
            if direction in thin_unit.without_attention:
                layer_lists[direction][stage_index] = []
    kept_blocks["down"][num_stages - drop_unit.num_removed :] = [None] * drop_unit.num_removed
    kept_blocks["up"][: drop_unit.num_removed] = [None] * drop_unit.num_removed
    removed_layers = {unit.name for unit in removed_units if isinstance(unit, DropLayer)}
    for direction in DIRECTIONS:
        for stage_index, blocks in enumerate(kept_blocks[direction]):
            num_layers = teacher_family.transformer_layers_at(direction, stage_index)
            if blocks and removed_layers and layer_lists[direction].get(stage_index) != []:
                layer_lists[direction][stage_index] = [
                    _remaining_layers(
                        f"{direction}_blocks.{stage_index}.attentions.{block}", num_layers, removed_layers
                    )
                    for block in blocks
                ]
    mid_layers = (
        _remaining_layers(MID_ATTENTION, teacher_family.mid_layers, removed_layers) if drop_unit.mid == "keep" else None
    )
    nonempty_layers = {
        direction: {
            index: stage_layers
            for index, stage_layers in layer_lists[direction].items()
            if stage_layers == [] or any(stage_layers)
        }
        for direction in DIRECTIONS
    }
    return Plan(
        name=name,
        title=f"{name}, chosen for this teacher",
        family=cast(Literal["sd", "sdxl"], family),
        down=kept_blocks["down"],
        mid=drop_unit.mid,
        up=kept_blocks["up"],
        layers=PlanLayers(down=nonempty_layers["down"], mid=mid_layers, up=nonempty_layers["up"]),
        features=DEFAULT_FEATURES[family],
        source=source,
    )


def _remaining_layers(attention: str, num_layers: int, removed_layers: set[str]) -> list[int] | None:
    """The layers of an attention that are left; None for all."""
    remaining = [layer for layer in range(num_layers) if DropLayer(attention, layer).name not in removed_layers]
    return None if len(remaining) == num_layers else remaining


def _iter_thinnings(family: str, stage: int, may_drop_attention: bool) -> Iterator[ThinStage]:
    """Every way of thinning a stage, by the numbers of pairs alone; whole with its attention it is none."""
    teacher_family = FAMILIES[family]
    num_down, num_up = teacher_family.blocks_per_stage("down"), teacher_family.blocks_per_stage("up")
    attention_directions = [
        direction for direction in DIRECTIONS if may_drop_attention and teacher_family.transformer_layers[stage]
    ]
    direction_sets = list(
        chain.from_iterable(combinations(attention_directions, count) for count in range(len(attention_directions) + 1))
    )
    for count in range(num_down, 0, -1):
        for kept_down in combinations(range(num_down), count):
            for kept_up in combinations(range(num_up), count + 1):
                yield from (
                    ThinStage(stage, kept_down, kept_up, without_attention)
                    for without_attention in direction_sets
                    if without_attention or count < num_down
                )


def _iter_layer_units(family: str) -> Iterator[DropLayer]:
    teacher_family = FAMILIES[family]
    for direction in DIRECTIONS:
        for stage in range(len(teacher_family.down_block_types)):
            num_layers = teacher_family.transformer_layers_at(direction, stage)
            names = [
                f"{direction}_blocks.{stage}.attentions.{block}"
                for block in range(teacher_family.blocks_per_stage(direction))
            ]
            yield from (DropLayer(name, layer) for name in names for layer in range(num_layers) if num_layers > 1)
    yield from (
        DropLayer(MID_ATTENTION, layer) for layer in range(teacher_family.mid_layers) if teacher_family.mid_layers > 1
    )


def _is_thinning_valid(thin_unit: ThinStage, unet_config: Mapping[str, Any]) -> bool:
    """Whether each kept resnet has as many channels, of its input and of its skip, in its new place as in its old."""
    widths, stage = list(unet_config["block_out_channels"]), thin_unit.stage
    stage_width, width_above, width_below = (
        widths[stage],
        widths[max(stage - 1, 0)],
        widths[min(stage + 1, len(widths) - 1)],
    )
    last_resnet = unet_config.get("layers_per_block", 2)  # of the up stage's resnets
    down_fits = width_above == stage_width or thin_unit.down[0] == 0
    first_up_fits = width_below == stage_width or thin_unit.up[0] == 0
    last_up_fits = width_above == stage_width or thin_unit.up[-1] == last_resnet
    return down_fits and first_up_fits and last_up_fits


def _is_drop_valid(drop_unit: DropDeepest, unet_config: Mapping[str, Any]) -> bool:
    """Whether the first up stage that is left, and what is left of the mid block, come after as many channels."""
    widths, heads = list(unet_config["block_out_channels"]), unet_config.get("attention_head_dim", 8)
    num_kept = len(widths) - drop_unit.num_removed
    if drop_unit.num_removed and widths[num_kept] != widths[num_kept - 1]:
        return False
    per_stage = list(heads) if isinstance(heads, list | tuple) else [heads] * len(widths)
    same_width = widths[num_kept - 1] == widths[-1] and per_stage[num_kept - 1] == per_stage[-1]
    return drop_unit.mid == "drop" or same_width


def _format_numbers(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))
