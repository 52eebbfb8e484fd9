import pytest
import torch

from prunella.training.loader import loaded_batches


def batches(number: int) -> dict:
    if number == 9:
        raise OSError("unreadable")
    return {"x": torch.full((2,), number)}


@pytest.mark.parametrize("device", ["cpu", "meta"])  # meta stands for a GPU: batches are made in a thread
def test_batches_come_in_order_on_their_device(device):
    got = list(loaded_batches(batches, iter([3, 1, 2]), torch.device(device)))
    assert [batch["x"].device.type for batch in got] == [device] * 3
    if device == "cpu":
        assert [batch["x"].tolist() for batch in got] == [[3, 3], [1, 1], [2, 2]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_fails_in_making_a_batch_is_raised_where_it_is_wanted(device):
    feed = loaded_batches(batches, iter([1, 9]), torch.device(device))
    next(feed)
    with pytest.raises(OSError, match="unreadable"):
        next(feed)


def test_a_feed_may_be_left(tmp_path):
    feed = loaded_batches(batches, iter(range(9)), torch.device("meta"))
    next(feed)
    feed.close()
