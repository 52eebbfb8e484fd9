"""Parts of a stage's work: jobs that each make some of its files, in any order and place, and what tells them apart.

A part is a folder of what it made and `part.json`: of which stage, which part of how many, what decides its content.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from prunella.compute.resume import Identity, same_params
from prunella.errors import UserError
from prunella.storage.files import atomic_write_text, read_json

PART = "part.json"
NAMED = 8  # missing pieces that an error names one by one
T = TypeVar("T")


class Named(Protocol):
    """A task by its name, which its piece has too."""

    @property
    def name(self) -> str: ...


Task = TypeVar("Task", bound=Named)


class Kind(NamedTuple):
    """What parts of a stage are called."""

    stage: str  # encode
    whole: str  # an encoding
    pieces: str  # shards
    inputs: str  # teacher or pairs


class Range(NamedTuple):
    """Part `number`, from 1 on, of `of`: every `of`-th piece."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def among(self, tasks: list[T]) -> list[T]:
        return tasks[self.number - 1 :: self.of]


def parse_range(text: str) -> Range:
    """Of "3/16" the third part of 16. Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shards {text}: expected NUMBER/OF with 1 ≤ NUMBER ≤ OF, such as 3/16")
    return Range(int(found[1]), int(found[2]))


def begin_part(folder: Path, which: Range, known: Identity, kind: Kind) -> None:
    """Make the folder of the part `which`, or go on with it. Raises UserError where it holds something else."""
    note = folder / PART
    if note.is_file() and (held := checked_part(folder, known, kind)) != which:
        raise UserError(f"{folder}: holds part {held}; part {which} needs a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(note, json.dumps({"stage": kind.stage, "part": which, "known": known._asdict()}) + "\n")


def checked_part(folder: Path, ours: Identity, kind: Kind) -> Range:
    """Which part the folder holds. Raises UserError where that is not one of ours."""
    if not (folder / PART).is_file():
        raise UserError(
            f"{folder}: no {PART}, so this is no part of {kind.whole} (`prunella {kind.stage} --shards` makes one)"
        )
    try:
        held = read_json(folder / PART)
        stage, which, theirs = held["stage"], Range(*held["part"]), Identity(**held["known"])
    except (TypeError, KeyError):
        raise UserError(f"{folder / PART}: damaged; remove the folder and make the part again") from None
    if stage != kind.stage:
        raise UserError(f"{folder}: holds a part of {stage}, not of {kind.stage}; leave it out")
    differ = [
        what
        for what, same in {
            f"parameters (section {kind.stage}, or seed)": same_params(kind.stage, theirs.params, ours.params),
            kind.inputs: theirs.inputs == ours.inputs,
            "code": theirs.code == ours.code,
        }.items()
        if not same
    ]
    if differ:
        raise UserError(f"{folder}: part {which} was made by other {' and other '.join(differ)}; make it again")
    return which


def gather(
    tasks: Sequence[Task],
    work: Path,
    parts: list[Path],
    counts: set[int],
    kind: Kind,
    *,
    whole: Callable[[Path, Task], bool],
    adopt: Callable[[Path, Path, Task], None],
) -> None:
    """Have in `work` what `parts`, each of which is checked, hold of the tasks.

    `whole` says whether a folder holds a task's piece, `adopt` has it in another folder too; `counts` are the numbers
    of parts that they are of. Raises UserError where a piece is missing, naming the parts that are to be made; nothing
    is adopted then.
    """
    origins = [next((folder for folder in (work, *parts) if whole(folder, task)), None) for task in tasks]
    if places := [place for place, origin in enumerate(origins) if origin is None]:
        raise UserError(_missing([task.name for task in tasks], places, counts, kind))
    for task, origin in zip(tasks, origins, strict=True):
        if origin and origin != work:
            adopt(origin, work, task)


def some(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _missing(names: list[str], places: list[int], counts: set[int], kind: Kind) -> str:
    """What to do about the pieces at `places` of `names`, which no part holds.

    Parts are named where all are parts of one number of them: `counts` are those numbers.
    """
    lacking = some([names[place] for place in places])
    said = f"{kind.stage} --merge: {len(places)} of {len(names)} {kind.pieces} are missing or damaged ({lacking})"
    if len(counts) != 1:
        return f"{said}; the parts given are not parts of one number of them"
    (of,) = counts
    ranges = sorted({place % of + 1 for place in places})
    return f"{said}; to be made: --shards {', '.join(f'{number}/{of}' for number in ranges)}"
