"""Units: what a student can lack by itself, and the plan of a student that lacks some of them.

A unit is one way of thinning a stage, down and up together (they share skips), with or without its attention; one end
of the UNet, which is how much of the mid block and of the deepest stages is gone; or, where attentions have several,
one transformer layer. Of the units of a group a student lacks one at most. Needs no torch.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, combinations
from typing import Any, Literal, NamedTuple, cast

from prunella.models.families import FAMILIES
from prunella.params import Mode
from prunella.pruning.plan import Layers, Plan

FEATURES: dict[str, Mode] = {"sd": "block-segmind", "sdxl": "sub-block"}  # compared while a chosen student learns
WAYS = ("down", "up")
Mid = Literal["keep", "resnet", "drop"]
MIDS: tuple[Mid, ...] = ("keep", "resnet", "drop")


class Thin(NamedTuple):
    """A stage, numbered from above, keeps these pairs; in the directions `plain` it has no attention."""

    stage: int
    down: tuple[int, ...]
    up: tuple[int, ...]
    plain: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return f"stage {self.stage}"

    @property
    def name(self) -> str:
        kept = f"stage {self.stage} keeps down {_listed(self.down)}, up {_listed(self.up)}"
        return kept + (f", no attention {' and '.join(self.plain)}" if self.plain else "")

    def keeps_attention(self, way: str, pair: int) -> bool:
        """Whether a pair of the down or up stage is kept with its attention."""
        return way not in self.plain and pair in getattr(self, way)


class End(NamedTuple):
    """The deepest `removed` stages are gone, and of the mid block this is left."""

    removed: int
    mid: Mid

    @property
    def group(self) -> str:
        return "end"

    @property
    def name(self) -> str:
        gone = {0: [], 1: ["deepest stage gone"]}.get(self.removed, [f"deepest {self.removed} stages gone"])
        mid = {"keep": [], "resnet": ["mid block's first resnet alone"], "drop": ["mid block gone"]}[self.mid]
        return ", ".join(gone + mid) or "all there"


class Layer(NamedTuple):
    """A transformer layer of an attention, which is named as in diffusers' UNet2DConditionModel, is gone."""

    attention: str
    layer: int

    @property
    def group(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        return f"{self.attention}.transformer_blocks.{self.layer}"


Unit = Thin | End | Layer
MID = "mid_block.attentions.0"


def units(family: str, config: Mapping[str, Any], attention: bool) -> list[Unit]:
    """Every unit that a student of this teacher can lack; without `attention` all stages keep theirs.

    Left out are those whose weights would have other shapes than the teacher's: where a stage changes the width, its
    first resnet down and its first and last up cannot be replaced by others.
    """
    stages = len(FAMILIES[family].down)
    found: list[Unit] = [
        end
        for removed in range(stages)
        for mid in MIDS
        if (end := End(removed, mid)) != End(0, "keep") and _end_fits(end, config)
    ]
    for stage in range(stages):
        found += [thin for thin in _thins(family, stage, attention) if _thin_fits(thin, config)]
    return found + list(_layers(family))


def whole(family: str) -> Plan:
    """The plan that keeps all."""
    return planned(family, [])


def planned(family: str, lacking: Iterable[Unit], name: str = "auto", source: str = "chosen") -> Plan:
    """The plan of a student without the units `lacking`, of which each group has one at most.

    Raises pydantic's ValidationError where they leave an attention without layers.
    """
    teacher, lacking = FAMILIES[family], list(lacking)
    end = next((unit for unit in lacking if isinstance(unit, End)), End(0, "keep"))
    stages = len(teacher.down)
    kept: dict[str, list] = {way: [list(range(teacher.pairs_of(way)))] * stages for way in WAYS}
    layers: dict[str, dict[int, list]] = {way: {} for way in WAYS}
    for thin in (unit for unit in lacking if isinstance(unit, Thin)):
        for way in WAYS:
            place = thin.stage if way == "down" else stages - 1 - thin.stage
            kept[way][place] = list(getattr(thin, way))
            if way in thin.plain:
                layers[way][place] = []
    kept["down"][stages - end.removed :] = [None] * end.removed
    kept["up"][: end.removed] = [None] * end.removed
    gone = {unit.name for unit in lacking if isinstance(unit, Layer)}
    for way in WAYS:
        for place, pairs in enumerate(kept[way]):
            count = teacher.layers_of(way, place)
            if pairs and gone and layers[way].get(place) != []:
                layers[way][place] = [_left(f"{way}_blocks.{place}.attentions.{pair}", count, gone) for pair in pairs]
    mid = _left(MID, teacher.mid, gone) if end.mid == "keep" else None
    named = {way: {at: each for at, each in layers[way].items() if each == [] or any(each)} for way in WAYS}
    return Plan(
        name=name,
        title=f"{name}, chosen for this teacher",
        family=cast(Literal["sd", "sdxl"], family),
        down=kept["down"],
        mid=end.mid,
        up=kept["up"],
        layers=Layers(down=named["down"], mid=mid, up=named["up"]),
        features=FEATURES[family],
        source=source,
    )


def _left(attention: str, count: int, gone: set[str]) -> list[int] | None:
    """The layers of an attention that are left; None for all."""
    left = [layer for layer in range(count) if Layer(attention, layer).name not in gone]
    return None if len(left) == count else left


def _thins(family: str, stage: int, attention: bool) -> Iterator[Thin]:
    """Every way of thinning a stage, by the numbers of pairs alone; whole with its attention it is none."""
    teacher = FAMILIES[family]
    down, up = teacher.pairs_of("down"), teacher.pairs_of("up")
    free = [way for way in WAYS if attention and teacher.layers[stage]]
    plains = list(chain.from_iterable(combinations(free, count) for count in range(len(free) + 1)))
    for count in range(down, 0, -1):
        for kept_down in combinations(range(down), count):
            for kept_up in combinations(range(up), count + 1):
                yield from (Thin(stage, kept_down, kept_up, plain) for plain in plains if plain or count < down)


def _layers(family: str) -> Iterator[Layer]:
    teacher = FAMILIES[family]
    for way in WAYS:
        for stage in range(len(teacher.down)):
            count = teacher.layers_of(way, stage)
            names = [f"{way}_blocks.{stage}.attentions.{pair}" for pair in range(teacher.pairs_of(way))]
            yield from (Layer(name, layer) for name in names for layer in range(count) if count > 1)
    yield from (Layer(MID, layer) for layer in range(teacher.mid) if teacher.mid > 1)


def _thin_fits(thin: Thin, config: Mapping[str, Any]) -> bool:
    """Whether each kept resnet has as many channels, of its input and of its skip, in its new place as in its old."""
    widths, stage = list(config["block_out_channels"]), thin.stage
    out, above, below = widths[stage], widths[max(stage - 1, 0)], widths[min(stage + 1, len(widths) - 1)]
    last = config.get("layers_per_block", 2)  # of the up stage's resnets
    down = above == out or thin.down[0] == 0
    first_up = below == out or thin.up[0] == 0
    last_up = above == out or thin.up[-1] == last
    return down and first_up and last_up


def _end_fits(end: End, config: Mapping[str, Any]) -> bool:
    """Whether the first up stage that is left, and what is left of the mid block, come after as many channels."""
    widths, heads = list(config["block_out_channels"]), config.get("attention_head_dim", 8)
    kept = len(widths) - end.removed
    if end.removed and widths[kept] != widths[kept - 1]:
        return False
    per_stage = list(heads) if isinstance(heads, list | tuple) else [heads] * len(widths)
    same = widths[kept - 1] == widths[-1] and per_stage[kept - 1] == per_stage[-1]
    return end.mid == "drop" or same


def _listed(numbers: Iterable[int]) -> str:
    return " ".join(map(str, numbers))
