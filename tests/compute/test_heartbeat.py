import threading

import pytest
from torch.distributed import TCPStore

from prunella.compute import heartbeat
from prunella.compute.heartbeat import Heartbeat, PeerLostError, watch_peers
from prunella.errors import UserError


@pytest.fixture
def store(monkeypatch):
    """A launcher's store, of three processes."""
    found = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": 3, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": found.port}.items():
        monkeypatch.setenv(name, str(value))
    return found


@pytest.fixture
def beats(store, monkeypatch) -> list[Heartbeat]:
    found = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        found.append(Heartbeat("127.0.0.1", store.port))
    return found


def test_who_is_silent_is_lost_and_who_has_left_is_not(beats, monkeypatch):
    now = [heartbeat.time.monotonic()]
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now[0])
    first, second, third = beats
    first.check_peers()
    for _ in range(4):
        now[0] += heartbeat.TIMEOUT / 2
        second.publish()
        third.publish(heartbeat.FINISHED)
        first.check_peers()
    now[0] += heartbeat.TIMEOUT + 1
    with pytest.raises(PeerLostError, match=r"^process 1 of 3 on \S+ has given no sign of life for 40 s$"):
        first.check_peers()


def test_a_store_that_no_longer_answers_ends_the_process(beats, monkeypatch, capsys):
    """Looking at it is waited for without end, as where the machine that it is on is cut off."""
    ended, silent = threading.Event(), threading.Event()
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    monkeypatch.setattr(heartbeat, "TIMEOUT", 0.2)
    monkeypatch.setattr(heartbeat.os, "_exit", lambda status: (ended.set(), beats[1].stop.set()))
    look = beats[1].check_peers
    monkeypatch.setattr(beats[1], "check_peers", lambda: look() if not silent.is_set() else ended.wait(60))
    monkeypatch.setattr(beats[1], "last_seen", {})
    threads = [threading.Thread(target=work, daemon=True) for work in (beats[1].run, beats[1].watch)]
    for thread in threads:
        thread.start()
    assert not ended.wait(1)  # as long as it answers
    silent.set()
    assert ended.wait(20)
    for thread in threads:
        thread.join(20)
    said = capsys.readouterr().err
    assert (
        said.startswith("process 1 ends: the machine of the first process, 127.0.0.1:") and "has not answered" in said
    )


def test_a_failed_exchange_says_what_to_do(store):
    with (
        pytest.raises(UserError, match=r"another of the 3 .*\(Read error \[::1\]:8: reset by peer\).*goes on"),
        watch_peers(),
    ):
        raise RuntimeError("[gloo/pair.cc:5] Read error [::1]:8: reset by peer. Check the logs\nmore")


def test_other_errors_are_left_as_they_are(store):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), watch_peers():
        raise RuntimeError("shapes differ")


def test_alone_there_is_no_store(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with watch_peers():
        pass
