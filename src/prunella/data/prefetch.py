"""Work done ahead by threads, given back in order: reading and decoding, which leave Python's lock to others."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

from prunella.errors import UserError

MAX_SECONDS = 1800  # for one item, as a last resort: the limits on pictures keep each below half a minute
InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


def count_threads(workers: int) -> int:
    """How many threads `runtime.workers` asks for; 0: as many as there are cores for this process."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return workers or len(cpus)


def prefetch(
    function: Callable[[InputT], OutputT],
    items: Iterable[InputT],
    workers: int,
    depth: int,
    label: Callable[[InputT], str] = str,
    max_seconds: float = MAX_SECONDS,
) -> Generator[OutputT, None, None]:
    """`function` of every item, in order, at most `depth` of them made before they are taken.

    Raises UserError with the item's name where one takes more than `max_seconds`. The threads are daemons and nobody
    waits for them then, so the process can end although a decoder or a network disk does not.
    """
    pending: deque[tuple[InputT, Future[OutputT]]] = deque()
    queue: SimpleQueue[tuple[InputT, Future[OutputT]] | None] = SimpleQueue()
    pool = [
        Thread(target=_run_prefetch_worker, args=(function, queue), name=f"ahead-{i}", daemon=True)
        for i in range(workers)
    ]
    remaining, abandon = iter(items), False

    def submit(batch: Iterable[InputT]) -> None:
        for item in batch:
            pending.append((item, Future()))
            queue.put(pending[-1])

    try:
        for thread in pool:
            thread.start()
        submit(islice(remaining, depth))
        while pending:
            item, future = pending.popleft()
            try:
                result = future.result(max_seconds)
            except TimeoutError:
                if future.done():  # its own
                    raise
                abandon = True
                raise UserError(
                    f"{label(item)}: took more than {max_seconds:g} seconds to read; look at this item and at the "
                    "disk or network that it lies on, take it out if it is the cause, and run the stage again"
                ) from None
            except (KeyboardInterrupt, SystemExit):
                abandon = True
                raise
            submit(islice(remaining, 1))
            yield result
    finally:
        for _, future in pending:
            future.cancel()
        for _ in pool:
            queue.put(None)
        for thread in () if abandon else pool:
            thread.join()


def _run_prefetch_worker(
    function: Callable[[InputT], OutputT], queue: "SimpleQueue[tuple[InputT, Future[OutputT]] | None]"
) -> None:
    while (task := queue.get()) is not None:
        item, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(item))
        except BaseException as error:  # given to whoever waits for the item
            future.set_exception(error)
