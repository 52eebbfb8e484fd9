"""Which examples are seen when: every epoch in an order of its own, by seed; a pure function of the place in line."""

from functools import lru_cache

import numpy as np


def examples(places: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Indices below `size` of the examples at `places` (counted from 0 over all epochs), in that order."""
    epochs = places // size
    orders = {epoch: _order(size, seed, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % size] for epoch, place in zip(epochs, places, strict=True)])


def line(number: int, batch_size: int) -> np.ndarray:
    """The places of batch `number`. A batch may reach over the end of an epoch into the next."""
    return np.arange(number * batch_size, (number + 1) * batch_size)


@lru_cache(maxsize=2)  # of a million examples an order takes 20 ms, a batch may touch two
def _order(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(size)
