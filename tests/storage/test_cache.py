import errno
import hashlib
import threading

import fsspec
import pytest
from stored import Watched, put

from prunella.errors import UserError
from prunella.storage import remote
from prunella.storage.cache import evict_cached, fetch_cached
from prunella.storage.remote import parse_location

CONTENT = b"what a shard holds"
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def far(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "train-00000.safetensors").write_bytes(CONTENT)
    return parse_location(put(tmp_path / "here", f"copies/{tmp_path.name}")) / "train-00000.safetensors"


@pytest.fixture
def watched(monkeypatch):
    it = Watched()
    monkeypatch.setattr(remote, "_filesystem", lambda kind: it)
    return it


def test_a_file_is_fetched_once_whoever_asks(far, watched, tmp_path):
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(fetch_cached(far, SUM, tmp_path / "c"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "c" / SUM] * 5 and found[0].read_bytes() == CONTENT
    assert watched.fetched == [str(far)]
    evict_cached(SUM, tmp_path / "c")
    evict_cached(SUM, tmp_path / "c")
    assert not found[0].exists() and fetch_cached(far, SUM, tmp_path / "c") == found[0] and len(watched.fetched) == 2


def test_a_copy_that_rotted_is_fetched_again(far, watched, tmp_path):
    copy = fetch_cached(far, SUM, tmp_path / "c")
    copy.write_bytes(b"?" + CONTENT[1:])
    assert fetch_cached(far, SUM, tmp_path / "c").read_bytes() == CONTENT and len(watched.fetched) == 2


def test_a_store_that_fails_for_a_while_is_asked_again(far, watched, tmp_path, monkeypatch, capsys):
    watched.error, watched.failing = RuntimeError("Connect timeout"), "train"
    waited: list[float] = []

    def mended_after_two(seconds) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            watched.error = None

    monkeypatch.setattr("prunella.storage.cache.time.sleep", mended_after_two)
    assert fetch_cached(far, SUM, tmp_path / "c").read_bytes() == CONTENT and waited == [2, 10]
    assert capsys.readouterr().err.count("RuntimeError: Connect timeout); asked again in ") == 2


def test_a_full_disk_is_no_fault_of_the_store(far, watched, tmp_path):
    watched.error, watched.failing = OSError(errno.ENOSPC, "No space left on device"), "train"
    with pytest.raises(OSError, match="No space left"):
        fetch_cached(far, SUM, tmp_path / "c")
    assert len(watched.fetched) == 1


def test_what_is_missing_damaged_or_kept_back_is_one_line_and_leaves_nothing(far, watched, tmp_path, monkeypatch):
    monkeypatch.setattr("prunella.storage.cache.RETRY_DELAYS", ())
    fsspec.filesystem("memory").pipe_file(str(far), b"other")
    with pytest.raises(UserError, match=rf"^{far}: damaged, its content is not what was written; remove it there, and"):
        fetch_cached(far, SUM, tmp_path / "c")
    watched.error, watched.failing = RuntimeError("Connect timeout"), "train"
    with pytest.raises(UserError, match=rf"^{far}: the store failed or cannot .* \(RuntimeError: Connect timeout\);"):
        fetch_cached(far, SUM, tmp_path / "c")
    watched.error = None
    fsspec.filesystem("memory").rm(str(far))
    with pytest.raises(UserError, match=rf"^{far}: is not on the store any more; `dvc repro --force --single-item`"):
        fetch_cached(far, SUM, tmp_path / "c")
    assert [path.suffix for path in (tmp_path / "c").iterdir()] == [".lock"]
