"""Which examples are seen when: every epoch in an order of its own, by seed; a pure function of the place in line.

Any example may come anywhere in an epoch. That is slow of a set that is larger than what memory keeps of files, so
there are windows: shards come in random order, and examples are mixed among a few shards at a time.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

LOTS = 4096  # units drawn at once


def examples(places: np.ndarray, size: int, seed: int, group: int = 0) -> np.ndarray:
    """Indices below `size` of the examples at `places` (counted from 0 over all epochs), in that order."""
    epochs = places // size
    orders = {epoch: _order(size, seed, group, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place % size] for epoch, place in zip(epochs, places, strict=True)])


class Windows(NamedTuple):
    """Shards of `lengths` examples each, which are mixed among so many (`together`) at a time."""

    lengths: tuple[int, ...]
    together: int

    def shards(self, seed: int, group: int, epoch: int, number: int) -> np.ndarray:
        """The shards of a window; [] beyond the last."""
        return _windows(self, seed, group, epoch).shards[number * self.together : (number + 1) * self.together]

    def examples(self, places: np.ndarray, size: int, seed: int, group: int = 0) -> np.ndarray:
        """As the function `examples`, in this order."""
        found, epochs, inside = np.empty(len(places), int), places // size, places % size
        for epoch in np.unique(epochs).tolist():
            ends = _windows(self, seed, group, epoch).ends
            numbers = np.where(epochs == epoch, np.searchsorted(ends, inside, "right"), -1)
            for number in np.unique(numbers[numbers >= 0]).tolist():
                here, order = numbers == number, _window(self, seed, group, epoch, number)
                found[here] = order[inside[here] - ends[number] + len(order)]
        return found

    def between(self, first: int, last: int, seed: int, group: int = 0) -> set[int]:
        """The shards of the windows that two places lie in, and of those between."""
        in_epoch = -(-len(self.lengths) // self.together)

        def window(place: int) -> int:
            epoch, inside = divmod(max(0, place), sum(self.lengths))
            return epoch * in_epoch + int(np.searchsorted(_windows(self, seed, group, epoch).ends, inside, "right"))

        numbers = range(window(first), window(last) + 1)
        return {int(shard) for each in numbers for shard in self.shards(seed, group, *divmod(each, in_epoch))}


def grouped(
    places: np.ndarray, groups: list[np.ndarray], unit: int, seed: int, windows: Sequence[Windows] | None = None
) -> np.ndarray:
    """The same for examples of several kinds that must not be mixed: `groups` of indices, `windows` of each.

    Every `unit` of places in line is of one group, drawn by lot in proportion to their sizes, and inside a group each
    example comes once before any comes twice: so no rest of a group is left out, nor filled up with repetitions.
    """
    drawn = [each.examples for each in windows] if windows else [examples] * len(groups)
    chosen = np.empty(len(places), int)
    for number, here, inside in parted(places, tuple(map(len, groups)), unit, seed):
        chosen[here] = groups[number][drawn[number](inside, len(groups[number]), seed, number)]
    return chosen


def parted(
    places: np.ndarray, sizes: tuple[int, ...], unit: int, seed: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(group, which of the places are its, their places in line inside it) of groups of `sizes`, as for `grouped`."""
    if len(sizes) == 1:
        yield 0, np.ones(len(places), bool), places
        return
    group, before = _units(places // unit, sizes, seed)
    for number in np.unique(group).tolist():
        here = group == number
        yield number, here, before[here] * unit + places[here] % unit


def _units(units: np.ndarray, sizes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit its group, and how many units of that group come before it."""
    different, each = np.unique(units, return_inverse=True)
    found = [_unit(int(unit), sizes, seed) for unit in different]
    groups, before = np.array(found, int).reshape(-1, 2).T
    return groups[each], before[each]


def _unit(unit: int, sizes: tuple[int, ...], seed: int) -> tuple[int, int]:
    block, place = divmod(unit, LOTS)
    drawn = _lots(block, sizes, seed)
    group = int(drawn[place])
    return group, int(_before(block, sizes, seed)[group] + np.count_nonzero(drawn[:place] == group))


@lru_cache(maxsize=4)
def _lots(block: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """The groups of a block of LOTS units."""
    return np.random.default_rng([seed, block, len(sizes)]).choice(len(sizes), LOTS, p=np.array(sizes) / sum(sizes))


@lru_cache(maxsize=4)
def _before(block: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """How many units of each group there are in the blocks before; 0.1 ms for each of those, once in LOTS units."""
    earlier = (_lots.__wrapped__(each, sizes, seed) for each in range(block))
    return sum((np.bincount(drawn, minlength=len(sizes)) for drawn in earlier), np.zeros(len(sizes), int))


def line(number: int, batch_size: int) -> np.ndarray:
    """The places of batch `number`. A batch may reach over the end of an epoch into the next."""
    return np.arange(number * batch_size, (number + 1) * batch_size)


@lru_cache(maxsize=32)  # of a million examples an order takes 20 ms and 8 MB; a batch may touch two
def _order(size: int, seed: int, group: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch] + [group] * bool(group)).permutation(size)


class _Shuffled(NamedTuple):
    """An epoch's shards in its order, and the places where windows of them end."""

    shards: np.ndarray
    ends: np.ndarray


@lru_cache(maxsize=8)
def _windows(windows: Windows, seed: int, group: int, epoch: int) -> _Shuffled:
    shards = np.random.default_rng([seed, epoch, group, 1]).permutation(len(windows.lengths))
    ends = np.fromiter(accumulate(windows.lengths[shard] for shard in shards), int)
    last = [*range(windows.together - 1, len(ends) - 1, windows.together), len(ends) - 1]
    return _Shuffled(shards, ends[last])


@lru_cache(maxsize=8)
def _window(windows: Windows, seed: int, group: int, epoch: int, number: int) -> np.ndarray:
    """The examples of a window in their order."""
    starts = np.concatenate([[0], np.cumsum(windows.lengths)])
    shards = windows.shards(seed, group, epoch, number)
    every = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    return np.random.default_rng([seed, epoch, group, 2, number]).permutation(every)
