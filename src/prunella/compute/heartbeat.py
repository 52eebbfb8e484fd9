"""Processes on several machines that train together notice when one of them is lost, and end with a clear word.

torch's launcher sees to its own machine: where a process dies it ends the others. On another machine a process waits
for the lost one in an exchange of gradients, which may take hours to give up. So each says every few seconds that it
lives, in the store that the launcher has at MASTER_ADDR for finding one another, and looks whether the others do.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # absent from torch's stubs

from prunella.compute.launch import rank, size
from prunella.errors import UserError

EVERY, SILENCE = 5.0, 40.0  # seconds between two signs of life, and until one that gives none is lost
WORD = (
    "what was learned up to the last checkpoint is kept, and the same command goes on from there, with any number of "
    "processes that batch_size can be shared by"
)
LEFT = "left"  # in place of a sign of life: ended well


class Lost(Exception):
    """A process is; its words say which."""


@contextmanager
def together() -> Iterator[None]:
    """Inside, a process that gives no sign of life ends this one within a minute; all enter and leave it together.

    Raises UserError where an exchange fails since another process is lost. Alone, it does nothing.
    """
    if size() == 1:
        yield
        return
    beat = Heartbeat(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    threads = [threading.Thread(target=work, daemon=True) for work in (beat.run, beat.watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    except Exception as error:
        if not _of_exchange(error):
            raise
        said = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]  # without where in torch, and advice
        raise UserError(f"another of the {size()} processes was lost or has failed ({said}); {WORD}") from error
    finally:
        beat.stop.set()
        for thread in threads:
            thread.join(EVERY)
    with suppress(RuntimeError):  # the store ends with the launcher on its machine
        beat.say(LEFT)


class Heartbeat:
    """This process's signs of life in the store at `host`:`port`, and the others'."""

    def __init__(self, host: str, port: int):
        self.rank, self.where, self.stop = rank(), f"{host}:{port}", threading.Event()
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=SILENCE))
        run = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        self.store = PrefixStore("/".join(["prunella", *run]), store)
        self.rounds = 0  # that the store has answered
        self.launcher = os.getppid()
        self.count, self.seen = 0, {other: ("", time.monotonic()) for other in range(size()) if other != self.rank}
        self.say()

    def say(self, word: str = "") -> None:
        self.count += 1
        self.store.set(str(self.rank), word or f"{self.count} {socket.gethostname()}")

    def look(self) -> None:
        """Raises Lost where another process has said nothing new for SILENCE."""
        for other, (before, since) in self.seen.items():
            key = str(other)
            said = self.store.get(key).decode() if self.store.check([key]) else ""
            if said != before or said == LEFT:
                self.seen[other] = said, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                on = f" on {said.partition(' ')[2]}" if said else ""
                raise Lost(f"process {other} of {size()}{on} has given no sign of life for {SILENCE:.0f} s")

    def run(self) -> None:
        """Say and look until stopped; end this process where another is lost, for which it may wait for good."""
        while not self.stop.wait(EVERY):
            try:
                self.say()
                self.look()
                self.rounds += 1
            except Lost as lost:
                self.end(str(lost))
            except RuntimeError:
                self.end(f"the machine of the first process, {self.where}, is lost")

    def watch(self) -> None:
        """End this process where the store has stopped to answer, which `run` would wait for, also for good."""
        before, waited = self.rounds, 0
        while not self.stop.wait(EVERY):  # counted, since time alone may go by while the process is busy
            before, waited = self.rounds, waited + 1 if self.rounds == before else 0
            if waited * EVERY >= SILENCE:
                why = f"the machine of the first process, {self.where}, has not answered for {SILENCE:.0f} s"
                self.end(why, launcher=True)  # which waits for the same store, deaf to SIGTERM

    def end(self, why: str, *, launcher: bool = False) -> None:
        """End this process, which may wait for another in an exchange, unless its work is over; its `launcher` too."""
        if self.stop.is_set():
            return
        print(f"process {self.rank} ends: {why}; {WORD}", file=sys.stderr, flush=True)
        if launcher and "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() == self.launcher != 1:
            os.kill(self.launcher, signal.SIGKILL)
        os._exit(1)


def _of_exchange(error: Exception) -> bool:
    """Whether it is what torch says of an exchange with a process that is gone."""
    words = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(name in words for name in ("gloo", "nccl", "connection reset by peer"))
    )
