import numpy as np

from prunella.training.sampler import Windows, batch_positions, sample_by_bucket, sample_indices


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    size, batch = 7, 3
    seen = np.concatenate([sample_indices(batch_positions(step, batch), size, 0) for step in range(7)])
    epochs = seen.reshape(3, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_a_batch_may_be_cut_anywhere():
    whole = sample_indices(batch_positions(3, 6), 11, 2).tolist()
    assert (
        whole
        == sample_indices(batch_positions(6, 3), 11, 2).tolist() + sample_indices(batch_positions(7, 3), 11, 2).tolist()
    )


def test_an_order_is_a_function_of_step_and_seed():
    assert np.array_equal(sample_indices(batch_positions(5, 4), 11, 2), sample_indices(batch_positions(5, 4), 11, 2))
    assert not np.array_equal(
        sample_indices(batch_positions(5, 4), 11, 2), sample_indices(batch_positions(5, 4), 11, 3)
    )


def test_batches_may_be_larger_than_the_set():
    assert sorted(sample_indices(batch_positions(0, 6), 3, 0).tolist()) == [0, 0, 1, 1, 2, 2]


GROUPS = [np.arange(0, 50), np.arange(50, 57), np.arange(57, 60)]


def kind(indices) -> set[int]:
    return {next(i for i, group in enumerate(GROUPS) if index in group) for index in indices}


def test_one_group_is_in_the_order_that_it_has_by_itself():
    alone = np.array([3, 5, 8, 9])
    assert (
        sample_by_bucket(batch_positions(2, 3), [alone], 3, 1).tolist()
        == alone[sample_indices(batch_positions(2, 3), 4, 1)].tolist()
    )


def test_a_batch_is_of_one_group():
    batches = [sample_by_bucket(batch_positions(step, 4), GROUPS, 4, 0) for step in range(2000)]
    assert all(len(kind(batch)) == 1 for batch in batches)


def test_groups_come_in_proportion_and_no_example_is_favoured():
    seen = np.bincount(
        np.concatenate([sample_by_bucket(batch_positions(step, 4), GROUPS, 4, 0) for step in range(9000)]), minlength=60
    )
    # 36,000 places for 60 examples: 600 each; a group's number of batches is drawn by lot.
    for group, spread in zip(GROUPS, (10, 60, 90), strict=True):
        assert abs(seen[group].mean() - 600) < spread
        assert seen[group].max() - seen[group].min() <= 1


def test_a_batch_of_groups_may_be_shared_by_processes():
    whole = sample_by_bucket(batch_positions(4100, 6), GROUPS, 6, 2).tolist()  # beyond the first lots
    parts = [sample_by_bucket(batch_positions(3 * 4100 + i, 2), GROUPS, 6, 2).tolist() for i in range(3)]
    assert whole == [index for part in parts for index in part]


def test_a_place_far_out_is_found():
    assert len(sample_by_bucket(batch_positions(30_000_000, 2), GROUPS, 2, 0)) == 2


SHARDS = (3, 5, 2, 4, 1)  # examples 0 to 2, 3 to 7, 8 and 9, 10 to 13, 14


def shards_of(seen: np.ndarray) -> list[int]:
    return sorted(set(np.searchsorted(np.cumsum(SHARDS), seen, "right").tolist()))


def test_in_windows_every_epoch_sees_every_example_once_a_few_shards_at_a_time():
    windows = Windows(SHARDS, 2)
    seen = np.concatenate([windows.sample_indices(batch_positions(step, 5), 15, 3) for step in range(9)])
    orders = set()
    for epoch, examples_of in enumerate(seen.reshape(3, 15)):
        assert sorted(examples_of.tolist()) == list(range(15))
        drawn = [windows.shards(3, 0, epoch, number).tolist() for number in range(3)]
        assert [len(each) for each in drawn] == [2, 2, 1] and sorted(np.concatenate(drawn)) == [0, 1, 2, 3, 4]
        at = 0
        for shards in drawn:
            end = at + sum(SHARDS[shard] for shard in shards)
            assert shards_of(examples_of[at:end]) == sorted(shards)
            at = end
        orders |= {tuple(map(tuple, drawn)), tuple(examples_of.tolist())}
    assert len(orders) == 6


def test_examples_of_a_window_are_mixed():
    seen = Windows((20, 20, 20), 3).sample_indices(batch_positions(0, 60), 60, 0)
    first, last = seen[:20], seen[40:]
    assert all(len(set((half // 20).tolist())) == 3 for half in (first, last))


def test_windows_of_groups_hold_their_batches_apart():
    windows = [Windows((30, 20), 1), Windows((7,), 1), Windows((2, 1), 1)]
    seen = [sample_by_bucket(batch_positions(step, 4), GROUPS, 4, 0, windows) for step in range(60)]
    assert all(len(kind(batch)) == 1 for batch in seen)
    first = [batch for batch in seen if kind(batch) == {0}][:12]  # the first epoch of the first group, nearly
    counts = np.bincount(np.concatenate(first), minlength=50)
    assert counts.max() == 1 and {int(index >= 30) for index in first[0]} in ({0}, {1})
    assert sample_by_bucket(batch_positions(3, 8), GROUPS, 4, 1, windows).tolist() == [
        index
        for number in (6, 7)
        for index in sample_by_bucket(batch_positions(number, 4), GROUPS, 4, 1, windows).tolist()
    ]


def test_the_shards_between_two_places_are_those_of_the_examples_there():
    windows = Windows(SHARDS, 2)  # of 2, 2 and 1 shards
    first = sum(SHARDS[shard] for shard in windows.shards(3, 0, 0, 0))
    second = first + sum(SHARDS[shard] for shard in windows.shards(3, 0, 0, 1))
    assert windows.shards_between(0, first - 1, 3) == set(windows.shards(3, 0, 0, 0).tolist())
    assert windows.shards_between(-9, first, 3) == {*windows.shards(3, 0, 0, 0), *windows.shards(3, 0, 0, 1)}
    assert windows.shards_between(second, 14, 3) == set(windows.shards(3, 0, 0, 2).tolist())
    assert windows.shards_between(second, 15, 3) == {*windows.shards(3, 0, 0, 2), *windows.shards(3, 0, 1, 0)}
    for start in range(0, 45, 4):
        seen = windows.sample_indices(np.arange(start, start + 4), 15, 3)
        assert set(shards_of(seen)) <= windows.shards_between(start, start + 3, 3)
