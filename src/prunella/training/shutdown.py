"""SIGTERM, as a scheduler sends it before it takes the machine away, at a moment when it can be obeyed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """Whether SIGTERM has come."""

    asked = False


@contextmanager
def graceful_shutdown() -> Iterator[Stop]:
    """Inside, SIGTERM is noted and nothing else; whoever looks at the note decides when to end.

    Outside the main thread, where Python allows no handler, nothing is noted.
    """
    stop = Stop()

    def note(number, frame):
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
