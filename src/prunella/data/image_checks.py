"""Looking at pictures, the costly part of the filter, in tasks that each leave a file of what was found.

What is found of a picture, its `Facts` or why it cannot be used, is a function of its bytes and the parameters. So a
task is the same whoever does it: a run that was killed goes on after those that are done, machines of a cluster share
them, and jobs of their own make some of them each. Which pictures are chosen is judged afterwards, in one order.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from prunella.compute.resume import Identity, identity
from prunella.data.criteria import Facts, picture_fails
from prunella.data.images import RejectedImage, contrast, machine_faults, perceptual_hash, unpacked
from prunella.data.prefetch import ahead, threads
from prunella.data.sources import open_source
from prunella.data.sources.base import Source
from prunella.data.task_files import by_cluster, content, done, keep
from prunella.params import Filter, Runtime
from prunella.storage.files import json_digest
from prunella.storage.remote import Place, Remote, place

ROOMS = ("data", "models/weights.py")  # decide what is found
TASK = 1000  # pictures; a few seconds of a processor
Score = Callable[[list], list[float]]  # pictures → aesthetic scores
Found = Facts | RejectedImage
Looker = Callable[[str], Found]  # of a key


class Task(NamedTuple):
    """Pictures to be looked at, of one round of the filter's."""

    round: int  # 0: the pairs drawn first; each further one replaces what fell out of the one before
    number: int
    keys: list[str]

    @property
    def name(self) -> str:
        return f"{self.round}-{self.number:05d}"

    @property
    def of(self) -> str:
        return json.dumps(self.keys)


def tasks(number: int, keys: list[str]) -> list[Task]:
    """The tasks of a round."""
    return [Task(number, place, keys[start : start + TASK]) for place, start in enumerate(range(0, len(keys), TASK))]


def aesthetic(params: Filter, device: Callable[[], str]) -> Score | None:
    """What scores pictures where `filter.aesthetic` asks for a model."""
    models = _models(params)
    if not models:
        return None
    from prunella.data.aesthetic import Aesthetic

    head, clip = models
    return Aesthetic(head, clip, device())


def _models(params: Filter) -> list[Path]:
    """The head and the CLIP that score pictures, where `filter.aesthetic` asks for them."""
    wanted = params.aesthetic
    return [] if wanted.min is None or not wanted.model or not wanted.clip else [Path(wanted.model), Path(wanted.clip)]


def looker(source: Source, params: Filter, score: Score | None) -> Looker:
    """From a key to the picture's facts, or to the rejection of one that cannot be used."""

    def look(key: str) -> Found:
        try:
            with machine_faults(key):
                data = source.read(key)
                with unpacked(data) as picture:
                    return facts(data, picture)
        except RejectedImage as rejected:
            return rejected

    def facts(data: bytes, picture: Image.Image) -> Facts:
        known = Facts(
            picture.width,
            picture.height,
            hashlib.sha256(data).hexdigest(),
            contrast(picture) if params.min_contrast else 0.0,
            perceptual_hash(picture) if params.near_duplicates is not None else 0,
        )
        return known._replace(aesthetic=score([picture])[0]) if score and not picture_fails(known, params) else known

    return look


# Who looks

Look = Callable[[int, list[str]], Iterator[Found]]  # number of a round, its keys → what is found of each, in order


def looking(
    params: Filter, source: dict, workers: int, score: Score | None, work: Path | None, cluster: Runtime | None
) -> Look:
    """What looks at the pictures of a round: threads, or with `cluster` the workers of the Ray cluster.

    Tasks that are whole in the folder `work` are not done again. Without it nothing is kept.
    """
    look = looker(open_source(source), params, score)

    def found(number: int, keys: list[str]) -> Iterator[Found]:
        asked = tasks(number, keys)
        worth = len(asked) > 1 or bool(_models(params))  # one alone is done here before workers have started
        if cluster and work and worth:
            return _by_cluster(asked, params, source, work, cluster)
        return looked(asked, look, workers, work)

    return found


def looked(asked: list[Task], look: Looker, workers: int, work: Path | None = None) -> Iterator[Found]:
    """What is found of each picture, in order; a task's file is written to `work` once all of it was looked at."""
    there = _done(asked, work)
    waiting = (key for task in asked if task.name not in there for key in task.keys)
    with closing(ahead(look, waiting, workers, 8 * workers)) as fresh:
        for task in asked:
            if work and task.name in there:
                yield from read_found(work, task)
                continue
            found: list[Found] = []
            for _ in task.keys:
                found.append(next(fresh))
                if work and len(found) == len(task.keys):
                    write_found(work, task, found)
                yield found[-1]


class TaskLooker:
    """Looks at a task's pictures in a process of a cluster."""

    def __init__(self, params: Filter, source: dict, work: Path, runtime: Runtime):
        from prunella.compute.device import device

        score = aesthetic(params, lambda: device(runtime))
        self.look, self.work = looker(open_source(source), params, score), work
        self.workers = threads(runtime.workers) if score else runtime.workers or 1  # it has one processor

    def __call__(self, task: Task) -> None:
        for _ in looked([task], self.look, self.workers, self.work):
            pass


def _by_cluster(asked: list[Task], params: Filter, source: dict, work: Path, cluster: Runtime) -> Iterator[Found]:
    """As `looked`."""
    begin, scored = partial(TaskLooker, params, source, work, cluster), bool(_models(params))
    for task in by_cluster(begin, asked, _done(asked, work), cluster, work, named="pictures", scored=scored):
        yield from read_found(work, task)


def _done(asked: list[Task], work: Path | None) -> set[str]:
    """Which tasks are done in `work`; of the first round it is said how many pictures they are."""
    names = done(asked, work)
    if names and not asked[0].round:
        held, of = sum(len(task.keys) for task in asked if task.name in names), sum(len(task.keys) for task in asked)
        tqdm.write(f"filter: {held:,} of {of:,} pictures were looked at before ({work}); it goes on from there")
    return names


def write_found(work: Path, task: Task, found: list[Found]) -> None:
    """Keep what was found of a task's pictures, a line each."""
    keep(work, task, "".join(json.dumps(_noted(each)) + "\n" for each in found).encode())


def read_found(work: Path, task: Task) -> Iterator[Found]:
    """What was found of each picture of a task that is kept."""
    for line in content(work, task).splitlines():
        noted = json.loads(line)
        yield RejectedImage(*noted) if len(noted) == 2 else Facts(*noted)


def _noted(found: Found) -> list:
    return [found.cause, found.criterion] if isinstance(found, RejectedImage) else list(found)


# What decides them


def known(params: Filter, seed: int, source: dict, *, timed: bool = True) -> Identity:
    """What the tasks and what is found follow from; `timed` counts data that were changed later as other data.

    How many pictures may be broken is left out: it stops the filter, and whoever raises it goes on from there.
    """
    base = identity(params.model_dump(exclude={"max_broken"}) | {"seed": seed}, _models(params), ROOMS)
    data = place(source["id"] if "id" in source else source["path"])
    return base._replace(inputs=[*base.inputs, source, listing(data, timed)])


def listing(root: Place, timed: bool) -> str:
    """A digest of the names and sizes of the files at `root`, and with `timed` of when they were last changed.

    On a store it is of their names and ETags.
    """
    if isinstance(root, Remote):
        return json_digest(root.marks())
    digest = hashlib.sha256()
    for folder, inside, names in os.walk(root) if root.is_dir() else [(str(root.parent), [], [root.name])]:
        inside.sort()
        for path in (os.path.join(folder, name) for name in sorted(names)):
            try:
                told = os.stat(path)
            except OSError:  # a link to nowhere, which is rejected as broken, or what is no file of this machine
                continue
            when = told.st_mtime_ns if timed else 0
            digest.update(os.fsencode(f"{os.path.relpath(path, root)}\0{told.st_size}\0{when}\n"))
    return digest.hexdigest()[:16]
