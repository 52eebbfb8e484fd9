"""Processes on several machines that train together notice when one of them is lost, and end with a clear word.

torch's launcher sees to its own machine: where a process dies it ends the others. On another machine a process waits
for the lost one in an exchange of gradients, which may take hours to give up. Therefore each says every few seconds
that it lives, in the store that the launcher has at MASTER_ADDR for finding one another, and looks whether the others
do.
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

from prunella.compute.launch import rank, world_size
from prunella.errors import UserError

INTERVAL, TIMEOUT = 5.0, 40.0  # seconds between two signs of life, and until one that gives none is lost
RESUME_HINT = (
    "what was learned up to the last checkpoint is kept, and the same command goes on from there, with any number of "
    "processes that batch_size can be shared by"
)
FINISHED = "left"  # in place of a sign of life: ended well


class PeerLostError(Exception):
    """A process is; its words say which."""


@contextmanager
def watch_peers() -> Iterator[None]:
    """Inside, a process that gives no sign of life ends this one within a minute; all enter and leave it together.

    Raises UserError where an exchange fails since another process is lost. Alone, it does nothing.
    """
    if world_size() == 1:
        yield
        return
    heartbeat = Heartbeat(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    threads = [threading.Thread(target=work, daemon=True) for work in (heartbeat.run, heartbeat.watch)]
    for thread in threads:
        thread.start()
    try:
        yield
    except Exception as error:
        if not _is_communication_error(error):
            raise
        message = (
            str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        )  # without where in torch, and advice
        raise UserError(
            f"another of the {world_size()} processes was lost or has failed ({message}); {RESUME_HINT}"
        ) from error
    finally:
        heartbeat.stop.set()
        for thread in threads:
            thread.join(INTERVAL)
    with suppress(RuntimeError):  # the store ends with the launcher on its machine
        heartbeat.publish(FINISHED)


class Heartbeat:
    """This process's signs of life in the store at `host`:`port`, and the others'."""

    def __init__(self, host: str, port: int):
        self.rank, self.address, self.stop = rank(), f"{host}:{port}", threading.Event()
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=TIMEOUT))
        run_names = os.environ.get("TORCHELASTIC_RUN_ID", ""), os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        self.store = PrefixStore("/".join(["prunella", *run_names]), store)
        self.num_rounds = 0  # that the store has answered
        self.launcher = os.getppid()
        self.num_signals, self.last_seen = (
            0,
            {peer: ("", time.monotonic()) for peer in range(world_size()) if peer != self.rank},
        )
        self.publish()

    def publish(self, signal_text: str = "") -> None:
        self.num_signals += 1
        self.store.set(str(self.rank), signal_text or f"{self.num_signals} {socket.gethostname()}")

    def check_peers(self) -> None:
        """Raises Lost where another process has said nothing new for SILENCE."""
        for peer, (last_signal, since) in self.last_seen.items():
            key = str(peer)
            current_signal = self.store.get(key).decode() if self.store.check([key]) else ""
            if current_signal != last_signal or current_signal == FINISHED:
                self.last_seen[peer] = current_signal, time.monotonic()
            elif time.monotonic() - since > TIMEOUT:
                host_suffix = f" on {current_signal.partition(' ')[2]}" if current_signal else ""
                raise PeerLostError(
                    f"process {peer} of {world_size()}{host_suffix} has given no sign of life for {TIMEOUT:.0f} s"
                )

    def run(self) -> None:
        """Say and look until stopped; end this process where another is lost, for which it may wait for good."""
        while not self.stop.wait(INTERVAL):
            try:
                self.publish()
                self.check_peers()
                self.num_rounds += 1
            except PeerLostError as lost:
                self.end(str(lost))
            except RuntimeError:
                self.end(f"the machine of the first process, {self.address}, is lost")

    def watch(self) -> None:
        """End this process where the store has stopped to answer, which `run` would wait for, also for good."""
        last_round, silent_intervals = self.num_rounds, 0
        while not self.stop.wait(INTERVAL):  # counted, since time alone may go by while the process is busy
            last_round, silent_intervals = self.num_rounds, silent_intervals + 1 if self.num_rounds == last_round else 0
            if silent_intervals * INTERVAL >= TIMEOUT:
                reason = f"the machine of the first process, {self.address}, has not answered for {TIMEOUT:.0f} s"
                self.end(reason, kill_launcher=True)  # which waits for the same store, deaf to SIGTERM

    def end(self, reason: str, *, kill_launcher: bool = False) -> None:
        """End this process, which may wait for another in an exchange, unless its work is over.

        Its `kill_launcher` too.
        """
        if self.stop.is_set():
            return
        print(f"process {self.rank} ends: {reason}; {RESUME_HINT}", file=sys.stderr, flush=True)
        if kill_launcher and "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() == self.launcher != 1:
            os.kill(self.launcher, signal.SIGKILL)
        os._exit(1)


def _is_communication_error(error: Exception) -> bool:
    """Whether it is what torch says of an exchange with a process that is gone."""
    message = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(name in message for name in ("gloo", "nccl", "connection reset by peer"))
    )
