"""Filter in parts: jobs that look at some of the pictures each, in any order and place, and what they found put in one.

Parts share the pictures that are drawn first; those that replace what falls out are known once all are judged, and the
stage looks at them itself. What was found is put into the work folder of the filter stage, which then only judges.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from prunella.compute.parts import Kind, Range, begin_part, checked_part, missing
from prunella.compute.workdir import Identity, resume_dir
from prunella.data.filter import Tally, candidates, drawn, not_too_many
from prunella.data.images import RejectedImage
from prunella.data.looking import BEGUN, Score, Task, adopt_found, known, looked, looker, tasks, whole
from prunella.data.prefetch import threads
from prunella.data.sources import describe, open_source
from prunella.errors import UserError
from prunella.params import Filter

KIND = Kind("filter", "a filter", "tasks", "data or aesthetic model")


class Asked(NamedTuple):
    """What is to be looked at first, and what decides what is found."""

    tasks: list[Task]
    source: dict
    known: Identity


def asked(params: Filter, seed: int) -> Asked:
    """The first round's tasks. Raises UserError where the rows say already that the filter would stop."""
    source, tally = describe(params, seed), Tally()
    opened = open_source(source)
    if opened.rendered:
        raise UserError(f"filter.source {params.source}: pictures are rendered and not looked at, so `dvc repro` does")
    rows, read = candidates(opened, params, tally)
    not_too_many(tally.fell["broken"], read, params, tally, "rows")
    first = np.sort(drawn(rows, params, seed)[: params.samples])
    keys = rows["key"].take(pa.array(first)).to_pylist()
    return Asked(tasks(0, keys), source, known(params, seed, source, timed=False))


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
    every, source, ours = asked(params, seed)
    begin_part(out, which, ours, KIND)
    some = which.among(every)
    found = looked(some, looker(open_source(source), params, score), threads(workers), out)
    pictures = sum(len(task.keys) for task in some)
    with tqdm(found, desc="filter: pictures", unit="picture", total=pictures, mininterval=1.0) as shown:
        unfit = sum(isinstance(each, RejectedImage) for each in shown)
    return Made(len(some), pictures, unfit)


def merge_parts(params: Filter, seed: int, parts: list[Path]) -> int:
    """Give the filter stage what all `parts` found; how many pictures it is of.

    Raises UserError where a task is missing or damaged, naming the parts that are to be made, and where a part is of
    other parameters, data, aesthetic model or code; nothing is given then.
    """
    every, source, ours = asked(params, seed)
    counts = {checked_part(part, ours, KIND).of for part in parts}
    with resume_dir("filter", known(params, seed, source), begun=BEGUN) as work:
        origins = [next((folder for folder in (work, *parts) if whole(folder, task)), None) for task in every]
        places = [place for place, origin in enumerate(origins) if origin is None]
        if places:
            raise UserError(missing([task.name for task in every], places, counts, KIND))
        for task, origin in zip(every, origins, strict=True):
            if origin and origin != work:
                adopt_found(origin, work, task)
    return sum(len(task.keys) for task in every)
