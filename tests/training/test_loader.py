import threading

import pytest
import torch

from prunella.training.loader import PREFETCHED_BATCHES, iter_loaded_batches


def batches(number: int) -> dict:
    if number == 9:
        raise OSError("unreadable")
    return {"x": torch.full((2,), number)}


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta stands for a GPU: batches are made in a thread
def test_batches_come_in_order_on_their_device(device):
    got = list(iter_loaded_batches(batches, iter([3, 1, 2]), torch.device(device)))
    assert [batch["x"].device.type for batch in got] == [device] * 3
    if device == "cpu":
        assert [batch["x"].tolist() for batch in got] == [[3, 3], [1, 1], [2, 2]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_fails_in_making_a_batch_is_raised_where_it_is_wanted(device):
    feed = iter_loaded_batches(batches, iter([1, 9]), torch.device(device))
    next(feed)
    with pytest.raises(OSError, match="unreadable"):
        next(feed)


def test_beside_a_gpu_several_are_made_side_by_side():
    together, begun = threading.Barrier(PREFETCHED_BATCHES, timeout=30), []

    def waited(number: int) -> dict:
        begun.append(number)
        if number < PREFETCHED_BATCHES:
            together.wait()  # until all of the first are being made at once
        return {"pairs": torch.tensor(number)}

    got = [int(batch["pairs"]) for batch in iter_loaded_batches(waited, iter(range(11)), torch.device("meta"))]
    assert got == list(range(11)) and sorted(begun) == got


def test_no_more_are_made_ahead_than_are_allowed():
    begun = []
    feed = iter_loaded_batches(lambda number: begun.append(number) or batches(1), iter(range(99)), torch.device("meta"))
    next(feed)
    feed.close()
    assert len(begun) <= PREFETCHED_BATCHES + 1


def test_a_feed_may_be_left(tmp_path):
    feed = iter_loaded_batches(batches, iter(range(9)), torch.device("meta"))
    next(feed)
    feed.close()
