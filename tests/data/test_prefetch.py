import subprocess
import sys
import threading
import time

import pytest

from prunella.data.prefetch import count_threads, prefetch
from prunella.errors import UserError


def test_results_come_in_order_whatever_takes_longest():
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 2 else 0)
        return number * number

    assert list(prefetch(slow_at_first, range(7), 3, 4)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(prefetch(slow_at_first, [], 3, 4)) == []


def test_no_more_is_made_than_asked_for():
    made, lock = [], threading.Lock()

    def note(number: int) -> int:
        with lock:
            made.append(number)
        return number

    results = prefetch(note, iter(range(100)), 2, 5)
    assert next(results) == 0
    time.sleep(0.05)
    assert len(made) <= 6
    results.close()


def test_an_error_comes_out():
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda number: 1 // number, [1, 0, 2], 2, 3))


def test_zero_is_a_thread_a_core():
    assert count_threads(3) == 3 and count_threads(0) >= 1


def test_an_item_that_never_ends_is_named():
    release = threading.Event()
    items = ["a.png", "slow.png", "c.png"]
    try:
        with pytest.raises(UserError, match=r"^slow\.png!: took more than 0\.2 seconds"):
            list(prefetch(lambda key: key == "slow.png" and release.wait(60), items, 2, 3, lambda key: f"{key}!", 0.2))
    finally:
        release.set()


def test_a_time_out_of_its_own_comes_out():
    def fails(_):
        raise TimeoutError("the network's")

    with pytest.raises(TimeoutError, match="the network's"):
        list(prefetch(fails, [0], 1, 1))


STUCK = """
import os, signal, sys, threading, time
from prunella.data.prefetch import prefetch
from prunella.errors import UserError
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
if sys.argv[1] == "term":
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
never, _ = os.pipe()
try:
    list(prefetch(lambda _: os.read(never, 1), ["a.png"], 2, 2, max_seconds=0.5 if sys.argv[1] == "clock" else 60))
except UserError as error:
    sys.exit(f"filter: {error}")
"""


@pytest.mark.parametrize(("how", "status", "said"), [("clock", 1, "filter: a.png: took"), ("term", 143, "")])
def test_the_process_ends_although_a_thread_does_not(how, status, said):
    done = subprocess.run([sys.executable, "-c", STUCK, how], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr[: len(said)]) == (status, said)
