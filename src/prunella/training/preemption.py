"""SIGTERM, as a scheduler sends it before it takes the machine away, and Ctrl-C: obeyed when a step is finished."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prunella.compute.launch import rank

REPEAT_AFTER = 1.0  # seconds; a launcher passes Ctrl-C on to processes that the terminal has told already


class StopRequest:
    """Whether SIGTERM or Ctrl-C has come, which of them first, and when."""

    requested = False
    source = "another process"  # of those that train together, which alone was told
    since = 0.0


@contextmanager
def graceful_shutdown() -> Iterator[StopRequest]:
    """Inside, SIGTERM and Ctrl-C are noted and nothing else; whoever looks at the note decides when to end.

    Ctrl-C once more, a second or more later, raises KeyboardInterrupt. Outside the main thread, where Python allows no
    handler, nothing is noted.
    """
    stop = StopRequest()

    def record_request(number: int, frame: object) -> None:
        interrupted = number == signal.SIGINT
        if interrupted and stop.requested and time.monotonic() - stop.since > REPEAT_AFTER:
            raise KeyboardInterrupt
        if interrupted and not stop.requested and rank() == 0:
            os.write(2, b"\nCtrl-C: this step is finished and its state kept; Ctrl-C once more ends at once\n")
        if not stop.requested:
            stop.requested, stop.since, stop.source = True, time.monotonic(), "Ctrl-C" if interrupted else "SIGTERM"

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous_handlers = {number: signal.signal(number, record_request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
