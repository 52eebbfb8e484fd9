"""Parts of a stage's work: jobs that each make some of its files, in any order and place, and what tells them apart.

A part is a folder of what it made and `part.json`: of which stage, which part of how many, what decides its content.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from prunella.compute.resume import Identity, params_match
from prunella.errors import UserError
from prunella.storage.files import atomic_write_text, read_json

SLICE_FILE = "part.json"
MAX_LISTED = 8  # missing pieces that an error names one by one
T = TypeVar("T")


class NamedTask(Protocol):
    """A task by its name, which its piece has too."""

    @property
    def name(self) -> str: ...


TaskT = TypeVar("TaskT", bound=NamedTask)


class SliceKind(NamedTuple):
    """Names of the parts of a stage."""

    stage: str  # encode
    result: str  # an encoding
    units: str  # shards
    inputs: str  # teacher or pairs


class Slice(NamedTuple):
    """Part `number`, from 1 on, of `total`: every `total`-th piece."""

    number: int
    total: int

    def __str__(self) -> str:
        return f"{self.number}/{self.total}"

    def select(self, tasks: list[T]) -> list[T]:
        return tasks[self.number - 1 :: self.total]


def parse_slice(text: str) -> Slice:
    """For "3/16", the third part of 16. Raises UserError."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--slice {text}: expected NUMBER/OF with 1 ≤ NUMBER ≤ OF, such as 3/16")
    return Slice(int(match[1]), int(match[2]))


def open_slice(folder: Path, work_slice: Slice, identity: Identity, slice_kind: SliceKind) -> None:
    """Make the folder of the part `work_slice`, or go on with it. Raises UserError where it holds something else."""
    note = folder / SLICE_FILE
    if note.is_file() and (existing := validate_slice(folder, identity, slice_kind)) != work_slice:
        raise UserError(f"{folder}: holds part {existing}; part {work_slice} needs a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(
        note, json.dumps({"stage": slice_kind.stage, "part": work_slice, "known": identity._asdict()}) + "\n"
    )


def validate_slice(folder: Path, expected: Identity, slice_kind: SliceKind) -> Slice:
    """The part that the folder holds. Raises UserError where that is not one of ours."""
    if not (folder / SLICE_FILE).is_file():
        raise UserError(
            f"{folder}: no {SLICE_FILE}, so this is no part of {slice_kind.result} (`prunella {slice_kind.stage} "
            "--slice` makes one)"
        )
    try:
        content = read_json(folder / SLICE_FILE)
        stage, work_slice, stored = content["stage"], Slice(*content["part"]), Identity(**content["known"])
    except (TypeError, KeyError):
        raise UserError(f"{folder / SLICE_FILE}: damaged; remove the folder and make the part again") from None
    if stage != slice_kind.stage:
        raise UserError(f"{folder}: holds a part of {stage}, not of {slice_kind.stage}; leave it out")
    differences = [
        label
        for label, same in {
            f"parameters (section {slice_kind.stage}, or seed)": params_match(
                slice_kind.stage, stored.params, expected.params
            ),
            slice_kind.inputs: stored.inputs == expected.inputs,
            "code": stored.code == expected.code,
        }.items()
        if not same
    ]
    if differences:
        raise UserError(
            f"{folder}: part {work_slice} was made by other {' and other '.join(differences)}; make it again"
        )
    return work_slice


def merge_slices(
    tasks: Sequence[TaskT],
    work_dir: Path,
    slice_dirs: list[Path],
    totals: set[int],
    slice_kind: SliceKind,
    *,
    is_complete: Callable[[Path, TaskT], bool],
    link_result: Callable[[Path, Path, TaskT], None],
) -> None:
    """Have in `work_dir` what `slice_dirs`, each of which is checked, hold of the tasks.

    `is_complete` says whether a folder holds a task's piece, `link_result` has it in another folder too; `totals` are
    the numbers of parts that they are of. Raises UserError where a piece is missing, naming the parts that are to be
    made; nothing is adopted then.
    """
    origins = [
        next((folder for folder in (work_dir, *slice_dirs) if is_complete(folder, task)), None) for task in tasks
    ]
    if missing_positions := [position for position, origin in enumerate(origins) if origin is None]:
        raise UserError(_format_missing_slices([task.name for task in tasks], missing_positions, totals, slice_kind))
    for task, origin in zip(tasks, origins, strict=True):
        if origin and origin != work_dir:
            link_result(origin, work_dir, task)


def shorten_names(names: list[str]) -> str:
    """The first names, and how many more there are."""
    suffix = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + suffix


def _format_missing_slices(names: list[str], positions: list[int], totals: set[int], slice_kind: SliceKind) -> str:
    """Advice on the pieces at the positions of `names`, which no part holds.

    Parts are named where all are parts of one number of them: `totals` are those numbers.
    """
    missing_names = shorten_names([names[position] for position in positions])
    message = (
        f"{slice_kind.stage} --merge: {len(positions)} of {len(names)} {slice_kind.units} are missing or "
        f"damaged ({missing_names})"
    )
    if len(totals) != 1:
        return f"{message}; the parts given are not parts of one number of them"
    (total,) = totals
    slice_numbers = sorted({position % total + 1 for position in positions})
    return f"{message}; to be made: --slice {', '.join(f'{number}/{total}' for number in slice_numbers)}"
