"""Work done ahead by threads, given back in order: reading and decoding, which leave Python's lock to others."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def threads(workers: int) -> int:
    """How many threads `runtime.workers` asks for; 0: as many as there are cores for this process."""
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return workers or len(ours)


def ahead(make: Callable[[Given], Made], items: Iterable[Given], workers: int, depth: int) -> Iterator[Made]:
    """`make` of every item, in order, at most `depth` of them made before they are taken."""
    waiting, rest = deque(), iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        try:
            waiting.extend(pool.submit(make, item) for item in islice(rest, depth))
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(rest, 1))
                yield done
        finally:
            pool.shutdown(cancel_futures=True)
