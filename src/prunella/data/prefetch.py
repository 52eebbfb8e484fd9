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

MOST_SECONDS = 1800  # for one item, as a last resort: the limits on pictures keep each below half a minute
Given = TypeVar("Given")
Made = TypeVar("Made")


def threads(workers: int) -> int:
    """How many threads `runtime.workers` asks for; 0: as many as there are cores for this process."""
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return workers or len(ours)


def ahead(
    make: Callable[[Given], Made],
    items: Iterable[Given],
    workers: int,
    depth: int,
    named: Callable[[Given], str] = str,
    most_seconds: float = MOST_SECONDS,
) -> Generator[Made, None, None]:
    """`make` of every item, in order, at most `depth` of them made before they are taken.

    Raises UserError with the item's name where one takes more than `most_seconds`. The threads are daemons and nobody
    waits for them then, so the process can end although a decoder or a network disk does not.
    """
    waiting: deque[tuple[Given, Future[Made]]] = deque()
    work: SimpleQueue[tuple[Given, Future[Made]] | None] = SimpleQueue()
    pool = [Thread(target=_work, args=(make, work), name=f"ahead-{i}", daemon=True) for i in range(workers)]
    rest, leave = iter(items), False

    def submit(some: Iterable[Given]) -> None:
        for item in some:
            waiting.append((item, Future()))
            work.put(waiting[-1])

    try:
        for thread in pool:
            thread.start()
        submit(islice(rest, depth))
        while waiting:
            item, future = waiting.popleft()
            try:
                done = future.result(most_seconds)
            except TimeoutError:
                if future.done():  # its own
                    raise
                leave = True
                raise UserError(
                    f"{named(item)}: took more than {most_seconds:g} seconds to read; look at this item and at the "
                    "disk or network that it lies on, take it out if it is the cause, and run the stage again"
                ) from None
            except (KeyboardInterrupt, SystemExit):
                leave = True
                raise
            submit(islice(rest, 1))
            yield done
    finally:
        for _, future in waiting:
            future.cancel()
        for _ in pool:
            work.put(None)
        for thread in () if leave else pool:
            thread.join()


def _work(make: Callable[[Given], Made], work: "SimpleQueue[tuple[Given, Future[Made]] | None]") -> None:
    while (task := work.get()) is not None:
        item, future = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(make(item))
        except BaseException as error:  # given to whoever waits for the item
            future.set_exception(error)
