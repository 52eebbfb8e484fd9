"""The order of the examples: every epoch in an order of its own, by seed; a pure function of the place in line.

Any example may come anywhere in an epoch. Random access is slow for a set that is larger than what memory keeps of
files, so there are windows: shards come in random order, and examples are mixed among a few shards at a time.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

BLOCK = 4096  # units drawn at once


def sample_indices(positions: np.ndarray, size: int, seed: int, group: int = 0) -> np.ndarray:
    """Indices below `size` of the examples at `positions` (counted from 0 over all epochs), in that order."""
    epochs = positions // size
    permutations = {epoch: _epoch_permutation(size, seed, group, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([permutations[epoch][place % size] for epoch, place in zip(epochs, positions, strict=True)])


class Windows(NamedTuple):
    """Shards of `lengths` examples each, which are mixed among so many (`shards_at_once`) at a time."""

    lengths: tuple[int, ...]
    shards_at_once: int

    def shards(self, seed: int, group: int, epoch: int, number: int) -> np.ndarray:
        """The shards of a window; [] beyond the last."""
        return _shuffle_windows(self, seed, group, epoch).shards[
            number * self.shards_at_once : (number + 1) * self.shards_at_once
        ]

    def sample_indices(self, positions: np.ndarray, size: int, seed: int, group: int = 0) -> np.ndarray:
        """Like the function `sample_indices`, in this order."""
        indices, epochs, offsets = np.empty(len(positions), int), positions // size, positions % size
        for epoch in np.unique(epochs).tolist():
            ends = _shuffle_windows(self, seed, group, epoch).ends
            numbers = np.where(epochs == epoch, np.searchsorted(ends, offsets, "right"), -1)
            for number in np.unique(numbers[numbers >= 0]).tolist():
                is_here, order = numbers == number, _shuffle_window(self, seed, group, epoch, number)
                indices[is_here] = order[offsets[is_here] - ends[number] + len(order)]
        return indices

    def shards_between(self, first: int, last: int, seed: int, group: int = 0) -> set[int]:
        """The shards of the windows that two places lie in, and of those between."""
        windows_per_epoch = -(-len(self.lengths) // self.shards_at_once)

        def window_of(place: int) -> int:
            epoch, inside = divmod(max(0, place), sum(self.lengths))
            return epoch * windows_per_epoch + int(
                np.searchsorted(_shuffle_windows(self, seed, group, epoch).ends, inside, "right")
            )

        numbers = range(window_of(first), window_of(last) + 1)
        return {int(shard) for each in numbers for shard in self.shards(seed, group, *divmod(each, windows_per_epoch))}


def sample_by_bucket(
    positions: np.ndarray, groups: list[np.ndarray], unit: int, seed: int, windows: Sequence[Windows] | None = None
) -> np.ndarray:
    """The same for examples of several kinds that must not be mixed: `groups` of indices, `windows` of each.

    Every `unit` of places in line is of one group, drawn by lot in proportion to their sizes, and inside a group each
    example comes once before any comes twice: so no rest of a group is left out, nor filled up with repetitions.
    """
    samplers = [each.sample_indices for each in windows] if windows else [sample_indices] * len(groups)
    indices = np.empty(len(positions), int)
    for number, is_here, offsets in partition_by_bucket(positions, tuple(map(len, groups)), unit, seed):
        indices[is_here] = groups[number][samplers[number](offsets, len(groups[number]), seed, number)]
    return indices


def partition_by_bucket(
    positions: np.ndarray, sizes: tuple[int, ...], unit: int, seed: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(group, which of the places are its, their places in line inside it) of groups of `sizes`, as for
    `sample_by_bucket`."""
    if len(sizes) == 1:
        yield 0, np.ones(len(positions), bool), positions
        return
    group, before = _group_of_units(positions // unit, sizes, seed)
    for number in np.unique(group).tolist():
        is_here = group == number
        yield number, is_here, before[is_here] * unit + positions[is_here] % unit


def _group_of_units(units: np.ndarray, sizes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each unit, its group, and how many units of that group come before it."""
    different, each = np.unique(units, return_inverse=True)
    found = [_group_of_unit(int(unit), sizes, seed) for unit in different]
    groups, units_before = np.array(found, int).reshape(-1, 2).T
    return groups[each], units_before[each]


def _group_of_unit(unit: int, sizes: tuple[int, ...], seed: int) -> tuple[int, int]:
    block, place = divmod(unit, BLOCK)
    group_draws = _draw_groups(block, sizes, seed)
    group = int(group_draws[place])
    return group, int(_count_units_before(block, sizes, seed)[group] + np.count_nonzero(group_draws[:place] == group))


@lru_cache(maxsize=4)
def _draw_groups(block: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """The groups of a block of LOTS units."""
    return np.random.default_rng([seed, block, len(sizes)]).choice(len(sizes), BLOCK, p=np.array(sizes) / sum(sizes))


@lru_cache(maxsize=4)
def _count_units_before(block: int, sizes: tuple[int, ...], seed: int) -> np.ndarray:
    """How many units of each group there are in the blocks before; 0.1 ms for each of those, once in LOTS units."""
    earlier = (_draw_groups.__wrapped__(each, sizes, seed) for each in range(block))
    return sum((np.bincount(group_draws, minlength=len(sizes)) for group_draws in earlier), np.zeros(len(sizes), int))


def batch_positions(number: int, batch_size: int) -> np.ndarray:
    """The places of batch `number`. A batch may reach over the end of an epoch into the next."""
    return np.arange(number * batch_size, (number + 1) * batch_size)


@lru_cache(maxsize=32)  # of a million examples an order takes 20 ms and 8 MB; a batch may touch two
def _epoch_permutation(size: int, seed: int, group: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch] + [group] * bool(group)).permutation(size)


class _ShuffledShards(NamedTuple):
    """An epoch's shards in its order, and the places where windows of them end."""

    shards: np.ndarray
    ends: np.ndarray


@lru_cache(maxsize=8)
def _shuffle_windows(windows: Windows, seed: int, group: int, epoch: int) -> _ShuffledShards:
    shards = np.random.default_rng([seed, epoch, group, 1]).permutation(len(windows.lengths))
    ends = np.fromiter(accumulate(windows.lengths[shard] for shard in shards), int)
    last = [*range(windows.shards_at_once - 1, len(ends) - 1, windows.shards_at_once), len(ends) - 1]
    return _ShuffledShards(shards, ends[last])


@lru_cache(maxsize=8)
def _shuffle_window(windows: Windows, seed: int, group: int, epoch: int, number: int) -> np.ndarray:
    """The examples of a window in their order."""
    starts = np.concatenate([[0], np.cumsum(windows.lengths)])
    shards = windows.shards(seed, group, epoch, number)
    indices = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    return np.random.default_rng([seed, epoch, group, 2, number]).permutation(indices)
