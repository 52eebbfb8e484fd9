import pytest
from commands import said

from prunella.compute.resume import DONE_FILE, IDENTITY_FILE, lock_run_dir


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A finished and an unfinished training, a finished encoding, and a folder that is no run's."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name, done in (("distill/aa", True), ("distill/bb", False), ("encode/cc", True), ("ablation/dd", True)):
        folder = tmp_path / "work" / name
        folder.mkdir(parents=True)
        if not name.startswith("ablation"):
            (folder / IDENTITY_FILE).write_text("{}")
        (folder / "state").write_bytes(b"0" * 10_000_000)
        if done:
            (folder / DONE_FILE).write_text("{}")
    return tmp_path / "work"


def left(work) -> set[str]:
    return {path.parent.name for path in work.glob("*/*/state")}


def test_a_dry_run_removes_nothing_and_says_what_would_go(work, capsys):
    printed = said(capsys, "gc", "--dry-run").splitlines()
    assert left(work) == {"aa", "bb", "cc", "dd"}
    assert [(line.split()[1], line.split()[4]) for line in printed[:-1]] == [
        ("aa", "finished"),
        ("bb", "unfinished"),
        ("cc", "finished"),
    ]
    assert "0.01 GB" in printed[0] and "0.02 GB would be freed" in printed[-1]


def test_copies_of_shards_go_too(work, capsys):
    (work / "cache").mkdir()
    (work / "cache" / "a sum").write_bytes(b"0" * 10_000_000)
    assert "0.03 GB would be freed" in said(capsys, "gc", "--dry-run") and (work / "cache" / "a sum").is_file()
    assert "0.03 GB freed" in said(capsys, "gc") and not list((work / "cache").iterdir())


def test_finished_runs_go_and_all_on_demand(work, capsys):
    assert "0.02 GB freed" in said(capsys, "gc")
    assert left(work) == {"bb", "dd"}
    said(capsys, "gc", "--all")
    assert left(work) == {"dd"}


def test_what_another_process_has_stays(work, capsys):
    with lock_run_dir(work / "distill" / "aa", wait=False):
        printed = said(capsys, "gc", "--all")
    assert left(work) == {"aa", "dd"}
    assert "in use" in printed.splitlines()[0]
