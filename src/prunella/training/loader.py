"""Batches on their way to the device: the next are made and copied while this one is learned from."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
from torch import Tensor

from prunella.training.data import Batch

PREFETCHED_BATCHES = (
    4  # batches that are being made, a thread each: rows that are not in memory yet are waited for side by side
)


def iter_loaded_batches(
    batches: Callable[[int], dict[str, Tensor]], numbers: Iterator[int], device: torch.device
) -> Iterator[Batch]:
    """The batches of `numbers` on `device`, one after the other.

    Beside a GPU threads make the next ones in page-locked memory. On a CPU they would only compete with training.
    """
    if device.type == "cpu":
        yield from (Batch(batches(number)) for number in numbers)
        return

    def load_batch(number: int) -> Batch:
        batch = Batch(batches(number))
        return batch.pin_memory() if device.type == "cuda" else batch

    threads = ThreadPoolExecutor(PREFETCHED_BATCHES, thread_name_prefix="loading")
    try:
        futures = deque(threads.submit(load_batch, number) for number in islice(numbers, PREFETCHED_BATCHES))
        while futures:
            batch = futures.popleft().result()
            futures += [threads.submit(load_batch, number) for number in islice(numbers, 1)]
            yield batch.to(device, non_blocking=True)
    finally:
        threads.shutdown(cancel_futures=True)
