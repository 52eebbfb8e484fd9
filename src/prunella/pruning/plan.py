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
from prunella.params import ConfigSection, FeatureMode, did_you_mean, validate_config
from prunella.storage.files import read_yaml

IndexList = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
PLAN_FILE = "plan.yaml"  # the plan's copy beside a student's UNet
SHIPPED_PLANS = Path(__file__).parent / "catalogue"
USER_PLANS = Path("plans")  # a user's own, in the folder that a command runs in


class PlanLayers(ConfigSection):
    """By stage of the teacher, a list of kept layers for each kept pair; null keeps all of a pair's.

    A stage with no list at all, [], has no attention: stock diffusers' DownBlock2D or UpBlock2D.
    """

    down: dict[int, list[IndexList | None]] = Field(default={})
    mid: IndexList | None = None
    up: dict[int, list[IndexList | None]] = Field(default={})


class Plan(ConfigSection):
    """The blocks of a teacher that a student keeps, and which features are compared while it learns."""

    name: str
    title: str
    family: Literal["sd", "sdxl"]
    down: list[IndexList | None]
    mid: Literal["keep", "resnet", "drop"]
    up: list[IndexList | None]
    layers: PlanLayers = PlanLayers()
    features: FeatureMode
    source: str
    published: dict[str, str] = Field(default={})  # size of the UNet, by original, as its makers give it

    @model_validator(mode="after")
    def _check_mirrored(self) -> Self:
        """Removed stages are the deepest, and each up stage has one pair more than its down stage: one skip each."""
        num_stages = len(self.teacher_family.down_block_types)
        if (len(self.down), len(self.up)) != (num_stages, num_stages):
            raise ValueError(
                f"down has {len(self.down)} stages and up has {len(self.up)}; {self._family_title} has {num_stages} "
                "each way"
            )
        for i, (down, up) in enumerate(zip(self.down, reversed(self.up), strict=True)):
            j = len(self.up) - 1 - i
            if (down is None) != (up is None):
                raise ValueError(f"down stage {i} and up stage {j} share skips: remove both or none")
            if down is not None and up is not None and len(up) != len(down) + 1:
                raise ValueError(
                    f"up stage {j} must keep {len(down) + 1} pairs, one more than down stage {i}, not {len(up)}"
                )
        if self.down[0] is None or self.down != self.down[: self.num_kept_stages] + [None] * (
            len(self.down) - self.num_kept_stages
        ):
            raise ValueError("only the deepest stages can be removed: the last of down with the first of up")
        return self

    @model_validator(mode="after")
    def _check_existing(self) -> Self:
        """The teacher has every pair and layer that is kept."""
        for direction, kept_blocks, layer_lists in (
            ("down", self.down, self.layers.down),
            ("up", self.up, self.layers.up),
        ):
            for stage, blocks in enumerate(kept_blocks):
                self._check_indices(
                    f"{direction} stage {stage}", "pair", blocks or [], self.teacher_family.blocks_per_stage(direction)
                )
            for stage, lists in layer_lists.items():
                self._check_layers(direction, stage, lists, kept_blocks)
        if self.layers.mid is not None and self.mid != "keep":
            raise ValueError(f"layers.mid: a mid block that is {self.mid!r} has no transformer layers")
        self._check_indices("the mid block", "layer", self.layers.mid or [], self.teacher_family.mid_layers)
        return self

    def _check_layers(self, direction: str, stage: int, layer_lists: list, kept_blocks: list) -> None:
        if stage >= len(kept_blocks) or kept_blocks[stage] is None:
            raise ValueError(f"layers.{direction}: stage {stage} is not among the kept stages")
        num_layers = self.teacher_family.transformer_layers_at(direction, stage)
        if not layer_lists and not num_layers:
            raise ValueError(
                f"layers.{direction}: stage {stage} of {self._family_title} has no attention to be left out"
            )
        if layer_lists and len(layer_lists) != len(kept_blocks[stage]):
            raise ValueError(
                f"layers.{direction}: stage {stage} keeps {len(kept_blocks[stage])} pairs, but layers of "
                f"{len(layer_lists)} are listed"
            )
        for block, layers in zip(kept_blocks[stage] if layer_lists else [], layer_lists, strict=True):
            self._check_indices(f"{direction} stage {stage}, pair {block},", "layer", layers or [], num_layers)

    def _check_indices(self, location: str, noun: str, indices: list[int], count: int) -> None:
        if indices != sorted(set(indices)):
            raise ValueError(f"{location} keeps {noun}s {indices}, which must rise and not repeat")
        if indices and indices[-1] >= count:
            available = f"has {noun}s 0 to {count - 1} there" if count else f"has no {noun}s there"
            raise ValueError(f"{location} keeps {noun} {indices[-1]}, but {self._family_title} {available}")

    @property
    def teacher_family(self) -> Family:
        """The family of the teachers that the plan is for."""
        return FAMILIES[self.family]

    @property
    def _family_title(self) -> str:
        return f"a teacher of family {self.family!r}"

    @property
    def num_kept_stages(self) -> int:
        """How many stages the student has each way."""
        return sum(stage is not None for stage in self.down)

    @property
    def num_removed_stages(self) -> int:
        """How many stages the student lacks each way: the teacher's deepest."""
        return len(self.down) - self.num_kept_stages

    def list_kept_stages(self, direction: str) -> list[tuple[int, list[int]]]:
        """The kept stages in order: each one's number in the teacher, and its kept pairs."""
        return [(i, blocks) for i, blocks in enumerate(getattr(self, direction)) if blocks is not None]

    def list_kept_layers(self, direction: str, stage: int) -> list[list[int]]:
        """Transformer layers kept in each kept pair of a stage, by the teacher's numbers; [] each without attention."""
        all_layers, blocks = (
            list(range(self.teacher_family.transformer_layers_at(direction, stage))),
            getattr(self, direction)[stage],
        )
        layer_lists = getattr(self.layers, direction).get(stage, [None] * len(blocks)) or [[]] * len(blocks)
        return [all_layers if layers is None else layers for layers in layer_lists]

    @property
    def mid_layers(self) -> list[int]:
        """Transformer layers kept in the mid block."""
        all_layers = list(range(self.teacher_family.mid_layers)) if self.mid == "keep" else []
        return all_layers if self.layers.mid is None else self.layers.mid


def read_plan(path: Path | str) -> Plan:
    """The plan in a YAML file. Raises UserError, naming file and key, where there is none or it contradicts itself."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such plan")
    return validate_config(Plan, read_yaml(path), str(path))


def find_plan(name: str, user_plans: Path = USER_PLANS) -> Path:
    """The file of the plan called `name`: NAME.yaml in the folder `user_plans`, or a shipped one.

    Raises UserError for an unknown name, and for an own plan that has the name of a shipped one.
    """
    files = _plan_files(user_plans)
    if name not in files:
        raise UserError(did_you_mean("student", name, sorted(files)))
    return files[name]


def _plan_files(user_plans: Path) -> dict[str, Path]:
    shipped = {path.stem: path for path in SHIPPED_PLANS.glob("*.yaml")}
    user_files = {path.stem: path for path in user_plans.glob("*.yaml")}
    for name in sorted(shipped.keys() & user_files.keys()):
        raise UserError(f"{user_files[name]}: {name} is the name of a shipped plan; give yours another name")
    return shipped | user_files


class PlanCatalog(Mapping[str, Plan]):
    """Name → plan, of the shipped plans and the user's own. A plan is read when it is asked for."""

    def __getitem__(self, name: str) -> Plan:
        return read_plan(find_plan(name))

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(_plan_files(USER_PLANS)))

    def __len__(self) -> int:
        return len(_plan_files(USER_PLANS))


STUDENTS = PlanCatalog()


def check_students(names: list[str], user_plans: Path = USER_PLANS, auto_students: Iterable[str] = ()) -> None:
    """Raises UserError where one of `names` (parameter `students`) has no plan and is none of the `auto_students`.

    Those choose themselves, as section `plan` describes them; none of them may have the name of a plan.
    """
    auto_students, files = set(auto_students), _plan_files(user_plans)
    for name in names:
        if name in auto_students and name in files:
            raise UserError(f"plan.students: {name} is the name of a plan, {files[name]}; give yours another name")
        if name not in auto_students and name not in files:
            raise UserError(f"students: {did_you_mean('student', name, sorted(auto_students | set(files)))}")
