import os
import signal
import threading

import pytest

from prunella.training import preemption
from prunella.training.preemption import graceful_shutdown


@pytest.fixture
def clock(monkeypatch):
    """Seconds, as a list of one."""
    now = [100.0]
    monkeypatch.setattr(preemption.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with graceful_shutdown() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert signal.getsignal(number) == before


def test_ctrl_c_once_more_ends_at_once(clock, capfd):
    with pytest.raises(KeyboardInterrupt), graceful_shutdown() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        clock[0] += 0.5  # the launcher's, which passes it on
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        clock[0] += 1.0
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the third should end it")
    assert capfd.readouterr().err.count("Ctrl-C once more ends at once") == 1


def test_sigterm_again_changes_nothing(clock):
    with graceful_shutdown() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            clock[0] += 10
    assert stop.requested


def test_outside_the_main_thread_nothing_is_noted():
    seen = []

    def there():
        with graceful_shutdown() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    assert seen == [False]
