"""A student is stated, not carved: a plan says which of the teacher's blocks are kept.

Words: a *stage* is a down or up block of the UNet; a *pair* is one resnet and the attention after it (in stages
without attention, the resnet alone). `down` and `up` list the stages in the teacher's order; each is the list of
pairs kept, or null where the whole stage is removed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from prunella.errors import UserError
from prunella.params import CATALOGUE, Section, check, unknown

Pairs = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
BESIDE = "plan.yaml"  # the plan's copy beside a student's UNet
Mode = Literal["block-bk", "block-segmind"]


class Plan(Section):
    name: str
    title: str
    family: Literal["sd"]
    down: list[Pairs | None]
    mid: Literal["keep", "drop"]
    up: list[Pairs | None]
    features: Mode
    source: str

    @model_validator(mode="after")
    def _mirrored(self):
        """Removed stages are the deepest, and each up stage has one pair more than its down stage: one skip each."""
        if len(self.down) != len(self.up):
            raise ValueError(f"down has {len(self.down)} stages and up has {len(self.up)}; they must mirror each other")
        for i, (down, up) in enumerate(zip(self.down, reversed(self.up), strict=True)):
            j = len(self.up) - 1 - i
            if (down is None) != (up is None):
                raise ValueError(f"down stage {i} and up stage {j} share skips: remove both or none")
            if down is not None and len(up) != len(down) + 1:
                raise ValueError(
                    f"up stage {j} must keep {len(down) + 1} pairs, one more than down stage {i}, not {len(up)}"
                )
        if self.down[0] is None or self.down != self.down[: self.kept] + [None] * (len(self.down) - self.kept):
            raise ValueError("only the deepest stages can be removed: the last of down with the first of up")
        for stage in [*self.down, *self.up]:
            if stage is not None and stage != sorted(set(stage)):
                raise ValueError(f"pairs {stage} must rise and not repeat")
        return self

    @property
    def kept(self) -> int:
        """How many stages the student has each way."""
        return sum(stage is not None for stage in self.down)

    @property
    def removed(self) -> int:
        return len(self.down) - self.kept


def read_plan(path: Path | str) -> Plan:
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such plan")
    return check(Plan, yaml.safe_load(path.read_text()), str(path))


class Catalogue(Mapping[str, Plan]):
    """Name → plan. Each plan is read from its own file when it is asked for, and no other is touched."""

    def __getitem__(self, name: str) -> Plan:
        if name not in set(self):
            raise UserError(unknown("student", name, list(self)))
        return read_plan(CATALOGUE / f"{name}.yaml")

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in CATALOGUE.glob("*.yaml")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


STUDENTS = Catalogue()
