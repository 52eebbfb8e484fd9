"""Filter in parts: jobs that look at some of the pictures each, in any order and place, and what they found put in one.

Parts share the pictures that are drawn first; those that replace what falls out are known once all are judged, and the
stage looks at them itself. What was found is put into the work folder of the filter stage, which then only judges.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from prunella.compute.resume import resume_dir
from prunella.compute.slices import Kind, Range, begin_part, checked_part, gather
from prunella.data.filter import drawn, not_too_many
from prunella.data.image_checks import Score, Task, known, looked, looker, tasks
from prunella.data.images import RejectedImage
from prunella.data.prefetch import threads
from prunella.data.rejections import Tally
from prunella.data.scan_rows import candidates, pieces
from prunella.data.sources import describe, open_source
from prunella.data.task_files import BEGUN, adopt, kept
from prunella.errors import UserError
from prunella.params import Filter

KIND = Kind("filter", "a filter", "tasks", "data or aesthetic model")


def asked(params: Filter, seed: int, source: dict, work: Path) -> list[Task]:
    """The first round's tasks; rows that are scanned for them are kept in `work`.

    Raises UserError where the rows say already that the filter would stop.
    """
    tally = Tally()
    rows, read = candidates(source, params, tally, work)
    not_too_many(tally.fell["broken"], read, params, tally, "rows")
    first = np.sort(drawn(rows, params, seed)[: params.samples])
    return tasks(0, rows["key"].take(pa.array(first)).to_pylist())


def described(params: Filter, seed: int) -> dict:
    """The source. Raises UserError where nothing of it is looked at."""
    source = describe(params, seed)
    if open_source(source).rendered:
        raise UserError(
            f"filter.source {params.source}: pictures are rendered and not looked at, so there are no parts"
        )
    return source


class Made(NamedTuple):
    """What a part holds: so many tasks of so many pictures, of which so many cannot be used."""

    tasks: int
    pictures: int
    unfit: int


def filter_part(
    params: Filter, seed: int, out: Path, which: Range, workers: int = 0, score: Score | None = None
) -> Made:
    """Look at the part `which` of the pictures drawn first; what is whole in the folder `out` is not done again.

    Raises UserError where `out` holds another part, or one of other parameters, data, aesthetic model or code.
    """
    source = described(params, seed)
    begin_part(out, which, known(params, seed, source, timed=False), KIND)
    some = which.among(asked(params, seed, source, out))
    found = looked(some, looker(open_source(source), params, score), threads(workers), out)
    pictures = sum(len(task.keys) for task in some)
    with tqdm(found, desc="filter: pictures", unit="picture", total=pictures, mininterval=1.0) as shown:
        unfit = sum(isinstance(each, RejectedImage) for each in shown)
    return Made(len(some), pictures, unfit)


def merge_parts(params: Filter, seed: int, parts: list[Path]) -> int:
    """Give the filter stage what all `parts` found; how many pictures it is of.

    Raises UserError where a task is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, data, aesthetic model or code; no picture is given then.
    """
    source = described(params, seed)
    ours = known(params, seed, source, timed=False)
    counts = {checked_part(part, ours, KIND).of for part in parts}
    with resume_dir("filter", known(params, seed, source), begun=BEGUN) as work:
        for piece in pieces(open_source(source)):  # every part has scanned them
            if not kept(work, piece) and (origin := next((part for part in parts if kept(part, piece)), None)):
                adopt(origin, work, piece)
        every = asked(params, seed, source, work)
        gather(every, work, parts, counts, KIND, whole=kept, adopt=adopt)
    return sum(len(task.keys) for task in every)
