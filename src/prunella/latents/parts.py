"""Encode in parts: jobs that make some of the shards each, in any order and place, and what they made put together.

A part is a folder of its shards and `part.json`: which part of how many it is, and what decides the shards. Parts are
put together in the work folder of the encode stage, which then has every shard already and only lists them.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from prunella.compute.timing import Timings
from prunella.compute.workdir import Identity, resume_dir, same_params
from prunella.data.prefetch import threads
from prunella.errors import UserError
from prunella.files import atomic_write_text, read_json
from prunella.latents.encode import BEGUN, asked, check_room
from prunella.latents.encoders import Encoders
from prunella.latents.making import Task, make_shards
from prunella.latents.shards import adopt_shard, whole_shard
from prunella.params import Encode

PART = "part.json"
NAMED = 8  # missing shards that an error names one by one


class Range(NamedTuple):
    """Part `number`, from 1 on, of `of`: every `of`-th shard."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def among(self, tasks: list[Task]) -> list[Task]:
        return tasks[self.number - 1 :: self.of]


def parse_range(text: str) -> Range:
    """Of "3/16" the third part of 16. Raises UserError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UserError(f"--shards {text}: expected NUMBER/OF with 1 ≤ NUMBER ≤ OF, such as 3/16")
    return Range(int(found[1]), int(found[2]))


def encode_part(
    params: Encode, seed: int, teacher: Path, manifest: Path, out: Path, device: str, which: Range, workers: int = 0
) -> list[Task]:
    """Make the part `which` of the shards in the folder `out`; what is whole there already is not made again.

    Raises UserError where `out` holds another part, or one of other parameters, teacher, pairs or code.
    """
    tasks, _, source, known = asked(params, seed, teacher, manifest)
    note = out / PART
    if note.is_file() and (held := _checked(out, known)) != which:
        raise UserError(f"{out}: holds part {held}; part {which} needs a folder of its own")
    out.mkdir(parents=True, exist_ok=True)
    atomic_write_text(note, json.dumps({"part": which, "known": known._asdict()}) + "\n")
    ours, encoders = which.among(tasks), Encoders(teacher, device, params.precision)
    check_room(ours, encoders, params, out, out)
    make_shards(ours, encoders, params, source, out, threads(workers), Timings())
    return ours


def merge_parts(params: Encode, seed: int, teacher: Path, manifest: Path, parts: list[Path]) -> int:
    """Give the encode stage the shards of all `parts`; how many there are.

    Raises UserError where one is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, teacher, pairs or code; nothing is given then.
    """
    tasks, _, _, known = asked(params, seed, teacher, manifest)
    ranges = {_checked(part, known) for part in parts}
    with resume_dir("encode", known, begun=BEGUN) as work:
        origins = {
            task.name: next((folder for folder in (work, *parts) if whole_shard(folder, task.name)), None)
            for task in tasks
        }
        missing = [place for place, origin in enumerate(origins.values()) if origin is None]
        if missing:
            raise UserError(_missing(tasks, missing, {which.of for which in ranges}))
        for name, origin in origins.items():
            if origin and origin != work:
                adopt_shard(origin, work, name)
    return len(tasks)


def _checked(folder: Path, ours: Identity) -> Range:
    """Which part the folder holds. Raises UserError where that is not one of ours."""
    if not (folder / PART).is_file():
        raise UserError(
            f"{folder}: no {PART}, so this is no part of an encoding (`prunella encode --shards` makes one)"
        )
    try:
        held = read_json(folder / PART)
        which, theirs = Range(*held["part"]), Identity(**held["known"])
    except (TypeError, KeyError):
        raise UserError(f"{folder / PART}: damaged; remove the folder and make the part again") from None
    differ = [
        what
        for what, same in {
            "parameters (section encode, or seed)": same_params("encode", theirs.params, ours.params),
            "teacher or pairs": theirs.inputs == ours.inputs,
            "code": theirs.code == ours.code,
        }.items()
        if not same
    ]
    if differ:
        raise UserError(f"{folder}: part {which} was made by other {' and other '.join(differ)}; make it again")
    return which


def _missing(tasks: list[Task], missing: list[int], counts: set[int]) -> str:
    """What to do about shards that no part holds; parts are named where all are parts of one number of them."""
    names = ", ".join(tasks[place].name for place in missing[:NAMED])
    more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    said = f"encode --merge: {len(missing)} of {len(tasks)} shards are missing or damaged ({names}{more})"
    if len(counts) != 1:
        return f"{said}; the parts given are not parts of one number of them"
    (of,) = counts
    ranges = sorted({place % of + 1 for place in missing})
    return f"{said}; to be made: --shards {', '.join(f'{number}/{of}' for number in ranges)}"
