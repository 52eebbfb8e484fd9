import numpy as np

from prunella.training.order import examples, line


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
