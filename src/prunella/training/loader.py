"""Batches on their way to the device: the next is made and copied while this one is learned from."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from prunella.training.batch import Batch


def loaded_batches(
    batches: Callable[[int], dict[str, Tensor]], numbers: Iterator[int], device: torch.device
) -> Iterator[Batch]:
    """The batches of `numbers` on `device`, one after the other.

    Beside a GPU a thread makes the next one in page-locked memory. On a CPU it would only compete with training.
    """
    if device.type == "cpu":
        yield from (Batch(batches(number)) for number in numbers)
        return

    def made(number: int | None) -> Batch | None:
        if number is None:
            return None
        batch = Batch(batches(number))
        return batch.pin_memory() if device.type == "cuda" else batch

    with ThreadPoolExecutor(1, thread_name_prefix="feeding") as thread:
        waiting = thread.submit(made, next(numbers, None))
        while (batch := waiting.result()) is not None:
            waiting = thread.submit(made, next(numbers, None))
            yield batch.to(device, non_blocking=True)
