import threading
import time

import pytest

from prunella.data.prefetch import ahead, threads


def test_results_come_in_order_whatever_takes_longest():
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 2 else 0)
        return number * number

    assert list(ahead(slow_at_first, range(7), 3, 4)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(ahead(slow_at_first, [], 3, 4)) == []


def test_no_more_is_made_than_asked_for():
    made, lock = [], threading.Lock()

    def note(number: int) -> int:
        with lock:
            made.append(number)
        return number

    results = ahead(note, iter(range(100)), 2, 5)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(made) <= 6
    results.close()


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda number: 1 // number, [1, 0, 2], 2, 3))


def test_zero_is_a_thread_a_core():
    assert threads(3) == 3 and threads(0) >= 1
