"""Tasks of the filter and what they gave: a file each in a folder of `work/`, whole or absent.

A file is a line of JSON, which says what it is of and has the sum of the rest, and the rest. Therefore one that was cut
off, damaged or made of something else counts as none, and its task is done again.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prunella.params import Runtime
from prunella.storage.files import link_or_copy

RESULT_GLOB = "*.found"  # in the folder of a filter that has begun


class FilterTask(Protocol):
    """A task; whoever does it in a folder leaves the same file there."""

    @property
    def name(self) -> str:
        """The checksum of its file, and a name for people."""
        ...

    @property
    def payload(self) -> str:
        """Its identity, so that a file of another task of this name is not taken for its own."""
        ...


TaskT = TypeVar("TaskT", bound=FilterTask)


def write_result(work: Path, task: FilterTask, data: bytes) -> None:
    """Write the task's file."""
    tmp_path = work / f"{task.name}.half"
    tmp_path.write_bytes(json.dumps(_result_header(task, data)).encode() + b"\n" + data)
    tmp_path.replace(_result_path(work, task))


def has_result(work: Path, task: FilterTask) -> bool:
    """Whether the task's file is there, as it was written."""
    try:
        header, _, data = _result_path(work, task).read_bytes().partition(b"\n")
        return json.loads(header) == _result_header(task, data)
    except (FileNotFoundError, ValueError):
        return False


def read_result(work: Path, task: FilterTask) -> bytes:
    """The content of the file of a task that `has_result`."""
    return _result_path(work, task).read_bytes().partition(b"\n")[2]


def link_result(origin: Path, work: Path, task: FilterTask) -> None:
    """Have the task's file in `work` too."""
    link_or_copy(_result_path(origin, task), _result_path(work, task))


def list_finished_tasks(tasks: Sequence[FilterTask], work: Path | None) -> set[str]:
    """The names of the tasks that are done in `work`."""
    return {task.name for task in tasks if work and has_result(work, task)}


def run_tasks_on_ray(
    make_worker: Callable[[], Callable[[TaskT], None]],
    tasks: Sequence[TaskT],
    finished: set[str],
    cluster: Runtime,
    work: Path,
    *,
    label: str,
    use_gpu: bool = False,
) -> Generator[TaskT, None, None]:
    """Have the Ray cluster do the tasks that are not `finished`; yields all of them in order, each once it is done.

    They are given out in order too, so what is found by the first can be used while others are under way. `use_gpu`
    ones want a GPU where `cluster` says so; others a processor each.
    """
    from prunella.compute.ray_executor import run_on_ray

    pending = [task for task in tasks if task.name not in finished]
    results: Generator[Any, None, None] = run_on_ray(
        make_worker,
        pending,
        cluster if use_gpu else cluster.model_copy(update={"device": "cpu"}),
        work,
        format_task=lambda task: f"{label} {task.name}",
        is_written=lambda task: has_result(work, task),
        description="filter",
        threads=None if use_gpu else 1,
    )
    unfinished = {task.name for task in pending}
    with closing(results):
        for task in tasks:
            while task.name in unfinished:
                unfinished.remove(next(results).name)
            yield task


def _result_path(work: Path, task: FilterTask) -> Path:
    return work / f"{task.name}.found"


def _result_header(task: FilterTask, data: bytes) -> dict[str, str]:
    return {"of": hashlib.sha256(task.payload.encode()).hexdigest(), "sum": hashlib.sha256(data).hexdigest()}
