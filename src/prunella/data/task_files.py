"""Tasks of the filter and what they gave: a file each in a folder of `work/`, whole or absent.

A file is a line of JSON, which says what it is of and has the sum of the rest, and the rest. So one that was cut off,
damaged or made of something else counts as none, and its task is done again.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prunella.params import Runtime
from prunella.storage.files import link_or_copy

BEGUN = "*.found"  # in the folder of a filter that has begun


class Task(Protocol):
    """A task; whoever does it in a folder leaves the same file there."""

    @property
    def name(self) -> str:
        """Of its file, and for people."""
        ...

    @property
    def of(self) -> str:
        """What it is of, so that a file of another task of this name is not taken for its own."""
        ...


T = TypeVar("T", bound=Task)


def keep(work: Path, task: Task, content: bytes) -> None:
    """Write the task's file."""
    half = work / f"{task.name}.half"
    half.write_bytes(json.dumps(_head(task, content)).encode() + b"\n" + content)
    half.replace(_file(work, task))


def kept(work: Path, task: Task) -> bool:
    """Whether the task's file is there, as it was written."""
    try:
        head, _, content = _file(work, task).read_bytes().partition(b"\n")
        return json.loads(head) == _head(task, content)
    except (FileNotFoundError, ValueError):
        return False


def content(work: Path, task: Task) -> bytes:
    """What the file of a task that is `kept` holds."""
    return _file(work, task).read_bytes().partition(b"\n")[2]


def adopt(origin: Path, work: Path, task: Task) -> None:
    """Have the task's file in `work` too."""
    link_or_copy(_file(origin, task), _file(work, task))


def done(asked: Sequence[Task], work: Path | None) -> set[str]:
    """The names of the tasks that are done in `work`."""
    return {task.name for task in asked if work and kept(work, task)}


def by_cluster(
    begin: Callable[[], Callable[[T], None]],
    asked: Sequence[T],
    there: set[str],
    cluster: Runtime,
    work: Path,
    *,
    named: str,
    scored: bool = False,
) -> Generator[T, None, None]:
    """Have the Ray cluster do the tasks that are not `there`; yields all of them in order, each once it is done.

    They are given out in order too, so what is found by the first can be used while others are under way. `scored` ones
    want a GPU where `cluster` says so; others a processor each.
    """
    from prunella.compute.ray_executor import made_on_ray

    waiting = [task for task in asked if task.name not in there]
    made: Generator[Any, None, None] = made_on_ray(
        begin,
        waiting,
        cluster if scored else cluster.model_copy(update={"device": "cpu"}),
        work,
        named=lambda task: f"{named} {task.name}",
        there=lambda task: kept(work, task),
        title="filter",
        threads=None if scored else 1,
    )
    missing = {task.name for task in waiting}
    with closing(made):
        for task in asked:
            while task.name in missing:
                missing.remove(next(made).name)
            yield task


def _file(work: Path, task: Task) -> Path:
    return work / f"{task.name}.found"


def _head(task: Task, content: bytes) -> dict[str, str]:
    return {"of": hashlib.sha256(task.of.encode()).hexdigest(), "sum": hashlib.sha256(content).hexdigest()}
