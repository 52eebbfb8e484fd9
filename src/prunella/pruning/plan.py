"""A student is stated, not carved: a plan says which of the teacher's blocks are kept.

Words: a *stage* is a down or up block of the UNet; a *pair* is one resnet and the attention after it (in stages
without attention, the resnet alone); a *layer* is one transformer block of an attention. `down` and `up` list the
stages in the teacher's order; each is the list of pairs kept, or null where the whole stage is removed. `mid` keeps
the mid block, keeps its first resnet alone, or drops it. `layers` lists the transformer layers kept, a list per kept
pair; what it does not name keeps all, and an empty list leaves a stage without any attention.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from prunella.errors import UserError
from prunella.models.families import FAMILIES
from prunella.models.families.base import Family
from prunella.params import Mode, Section, check, unknown
from prunella.storage.files import read_yaml

Numbers = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
BESIDE = "plan.yaml"  # the plan's copy beside a student's UNet
CATALOGUE = Path(__file__).parent / "catalogue"
OWN = Path("plans")  # a user's own, in the folder that a command runs in


class Layers(Section):
    """By stage of the teacher, a list of kept layers for each kept pair; null keeps all of a pair's.

    A stage with no list at all, [], has no attention: stock diffusers' DownBlock2D or UpBlock2D.
    """

    down: dict[int, list[Numbers | None]] = Field(default={})
    mid: Numbers | None = None
    up: dict[int, list[Numbers | None]] = Field(default={})


class Plan(Section):
    """Which of a teacher's blocks a student keeps, and which features are compared while it learns."""

    name: str
    title: str
    family: Literal["sd", "sdxl"]
    down: list[Numbers | None]
    mid: Literal["keep", "resnet", "drop"]
    up: list[Numbers | None]
    layers: Layers = Layers()
    features: Mode
    source: str
    published: dict[str, str] = Field(default={})  # size of the UNet, by original, as its makers give it

    @model_validator(mode="after")
    def _mirrored(self) -> Self:
        """Removed stages are the deepest, and each up stage has one pair more than its down stage: one skip each."""
        count = len(self.teacher.down)
        if (len(self.down), len(self.up)) != (count, count):
            raise ValueError(
                f"down has {len(self.down)} stages and up has {len(self.up)}; {self._theirs} has {count} each way"
            )
        for i, (down, up) in enumerate(zip(self.down, reversed(self.up), strict=True)):
            j = len(self.up) - 1 - i
            if (down is None) != (up is None):
                raise ValueError(f"down stage {i} and up stage {j} share skips: remove both or none")
            if down is not None and up is not None and len(up) != len(down) + 1:
                raise ValueError(
                    f"up stage {j} must keep {len(down) + 1} pairs, one more than down stage {i}, not {len(up)}"
                )
        if self.down[0] is None or self.down != self.down[: self.kept] + [None] * (len(self.down) - self.kept):
            raise ValueError("only the deepest stages can be removed: the last of down with the first of up")
        return self

    @model_validator(mode="after")
    def _there(self) -> Self:
        """The teacher has every pair and layer that is kept."""
        for way, stages, named in (("down", self.down, self.layers.down), ("up", self.up, self.layers.up)):
            for stage, pairs in enumerate(stages):
                self._within(f"{way} stage {stage}", "pair", pairs or [], self.teacher.pairs_of(way))
            for stage, lists in named.items():
                self._layers_fit(way, stage, lists, stages)
        if self.layers.mid is not None and self.mid != "keep":
            raise ValueError(f"layers.mid: a mid block that is {self.mid!r} has no transformer layers")
        self._within("the mid block", "layer", self.layers.mid or [], self.teacher.mid)
        return self

    def _layers_fit(self, way: str, stage: int, lists: list, stages: list) -> None:
        if stage >= len(stages) or stages[stage] is None:
            raise ValueError(f"layers.{way}: stage {stage} is not among the kept stages")
        count = self.teacher.layers_of(way, stage)
        if not lists and not count:
            raise ValueError(f"layers.{way}: stage {stage} of {self._theirs} has no attention to be left out")
        if lists and len(lists) != len(stages[stage]):
            raise ValueError(
                f"layers.{way}: stage {stage} keeps {len(stages[stage])} pairs, but layers of {len(lists)} are listed"
            )
        for pair, layers in zip(stages[stage] if lists else [], lists, strict=True):
            self._within(f"{way} stage {stage}, pair {pair},", "layer", layers or [], count)

    def _within(self, where: str, what: str, kept: list[int], count: int) -> None:
        if kept != sorted(set(kept)):
            raise ValueError(f"{where} keeps {what}s {kept}, which must rise and not repeat")
        if kept and kept[-1] >= count:
            there = f"has {what}s 0 to {count - 1} there" if count else f"has no {what}s there"
            raise ValueError(f"{where} keeps {what} {kept[-1]}, but {self._theirs} {there}")

    @property
    def teacher(self) -> Family:
        """The family of the teachers that the plan is for."""
        return FAMILIES[self.family]

    @property
    def _theirs(self) -> str:
        return f"a teacher of family {self.family!r}"

    @property
    def kept(self) -> int:
        """How many stages the student has each way."""
        return sum(stage is not None for stage in self.down)

    @property
    def removed(self) -> int:
        """How many stages the student lacks each way: the teacher's deepest."""
        return len(self.down) - self.kept

    def stages(self, way: str) -> list[tuple[int, list[int]]]:
        """The kept stages in order: each one's number in the teacher, and its kept pairs."""
        return [(i, pairs) for i, pairs in enumerate(getattr(self, way)) if pairs is not None]

    def layers_of(self, way: str, stage: int) -> list[list[int]]:
        """Transformer layers kept in each kept pair of a stage, by the teacher's numbers; [] each without attention."""
        every, pairs = list(range(self.teacher.layers_of(way, stage))), getattr(self, way)[stage]
        named = getattr(self.layers, way).get(stage, [None] * len(pairs)) or [[]] * len(pairs)
        return [every if layers is None else layers for layers in named]

    @property
    def mid_layers(self) -> list[int]:
        """Transformer layers kept in the mid block."""
        every = list(range(self.teacher.mid)) if self.mid == "keep" else []
        return every if self.layers.mid is None else self.layers.mid


def read_plan(path: Path | str) -> Plan:
    """The plan in a YAML file. Raises UserError, naming file and key, where there is none or it contradicts itself."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such plan")
    return check(Plan, read_yaml(path), str(path))


def find_plan(name: str, own: Path = OWN) -> Path:
    """The file of the plan called `name`: NAME.yaml in the folder `own`, or a shipped one.

    Raises UserError for an unknown name, and for an own plan that has the name of a shipped one.
    """
    files = _files(own)
    if name not in files:
        raise UserError(unknown("student", name, sorted(files)))
    return files[name]


def _files(own: Path) -> dict[str, Path]:
    shipped = {path.stem: path for path in CATALOGUE.glob("*.yaml")}
    owned = {path.stem: path for path in own.glob("*.yaml")}
    for name in sorted(shipped.keys() & owned.keys()):
        raise UserError(f"{owned[name]}: {name} is the name of a shipped plan; give yours another name")
    return shipped | owned


class Catalogue(Mapping[str, Plan]):
    """Name → plan, of the shipped plans and the user's own. A plan is read when it is asked for."""

    def __getitem__(self, name: str) -> Plan:
        return read_plan(find_plan(name))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_files(OWN)))

    def __len__(self) -> int:
        return len(_files(OWN))


STUDENTS = Catalogue()


def check_students(names: list[str], own: Path = OWN, chosen: Iterable[str] = ()) -> None:
    """Raises UserError where one of `names` (parameter `students`) has no plan and is none of the `chosen`.

    Those choose themselves, as section `plan` describes them; none of them may have the name of a plan.
    """
    chosen, files = set(chosen), _files(own)
    for name in names:
        if name in chosen and name in files:
            raise UserError(f"plan.students: {name} is the name of a plan, {files[name]}; give yours another name")
        if name not in chosen and name not in files:
            raise UserError(f"students: {unknown('student', name, sorted(chosen | set(files)))}")
