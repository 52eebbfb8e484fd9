import numpy as np

from prunella.training.sampler import examples, grouped, line


def test_every_epoch_sees_every_example_once_in_an_order_of_its_own():
    size, batch = 7, 3
    seen = np.concatenate([examples(line(step, batch), size, 0) for step in range(7)])
    epochs = seen.reshape(3, size)
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_a_batch_may_be_cut_anywhere():
    whole = examples(line(3, 6), 11, 2).tolist()
    assert whole == examples(line(6, 3), 11, 2).tolist() + examples(line(7, 3), 11, 2).tolist()


def test_an_order_is_a_function_of_step_and_seed():
    assert np.array_equal(examples(line(5, 4), 11, 2), examples(line(5, 4), 11, 2))
    assert not np.array_equal(examples(line(5, 4), 11, 2), examples(line(5, 4), 11, 3))


def test_batches_may_be_larger_than_the_set():
    assert sorted(examples(line(0, 6), 3, 0).tolist()) == [0, 0, 1, 1, 2, 2]


GROUPS = [np.arange(0, 50), np.arange(50, 57), np.arange(57, 60)]


def kind(indices) -> set[int]:
    return {next(i for i, group in enumerate(GROUPS) if index in group) for index in indices}


def test_one_group_is_in_the_order_that_it_has_by_itself():
    alone = np.array([3, 5, 8, 9])
    assert grouped(line(2, 3), [alone], 3, 1).tolist() == alone[examples(line(2, 3), 4, 1)].tolist()


def test_a_batch_is_of_one_group():
    batches = [grouped(line(step, 4), GROUPS, 4, 0) for step in range(2000)]
    assert all(len(kind(batch)) == 1 for batch in batches)


def test_groups_come_in_proportion_and_no_example_is_favoured():
    seen = np.bincount(np.concatenate([grouped(line(step, 4), GROUPS, 4, 0) for step in range(9000)]), minlength=60)
    # 36,000 places for 60 examples: 600 each; a group's number of batches is drawn by lot.
    for group, spread in zip(GROUPS, (10, 60, 90), strict=True):
        assert abs(seen[group].mean() - 600) < spread
        assert seen[group].max() - seen[group].min() <= 1


def test_a_batch_of_groups_may_be_shared_by_processes():
    whole = grouped(line(4100, 6), GROUPS, 6, 2).tolist()  # beyond the first lots
    parts = [grouped(line(3 * 4100 + i, 2), GROUPS, 6, 2).tolist() for i in range(3)]
    assert whole == [index for part in parts for index in part]


def test_a_place_far_out_is_found():
    assert len(grouped(line(30_000_000, 2), GROUPS, 2, 0)) == 2
