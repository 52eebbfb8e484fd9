import hashlib
from pathlib import Path

import pytest
from toygraph import IDENTITY, run

from prunella.compute.resume import digest_code
from prunella.errors import UserError
from prunella.verify.git_history import GitHistory, checkout, compute_folder_md5

ROOM = "src/prunella/room"


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    run(root, "git", "init", "--quiet")
    for key, value in IDENTITY.items():
        run(root, "git", "config", key, value)
    return root


def committed(root: Path, **files: str) -> str:
    """Write files of the room (`__` stands for /), or elsewhere in the repository where a name has a dot; commit."""
    for name, text in files.items():
        path = root / ROOM / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--allow-empty", "--message", "next")
    return run(root, "git", "rev-parse", "HEAD").strip()


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def hashes(files: dict[str, str]) -> dict[str, str]:
    return {ROOM: compute_folder_md5({name: md5(text) for name, text in files.items()})}


def test_a_folder_has_the_hash_that_dvc_gives_it(tmp_path, monkeypatch):
    files = {"b.py": "2", "a.py": "", "inner/ä c.yaml": "3\r\n", "inner-x.py": "4"}
    for name, text in files.items():
        (tmp_path / "room" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "room" / name).write_bytes(text.encode())
    ours = compute_folder_md5({name: md5(text) for name, text in files.items()})
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_objects.fs.local import LocalFileSystem

    local = LocalFileSystem()
    _, _, found = build(HashFileDB(local, str(tmp_path / "cache")), str(tmp_path / "room"), local, "md5", dry_run=True)
    assert found.hash_info.value == ours
    assert ours.endswith(".dir")


def test_the_newest_commit_with_the_hashes_is_found(repository):
    first = committed(repository, a="1", b="2", inner__c="3")
    other = committed(repository, a="1", b="3", inner__c="3")
    (repository / "elsewhere").write_text("")
    last_before = committed(repository)
    committed(repository, a="2")
    history = GitHistory(repository)

    def newest(**files: str) -> str | None:
        wanted = hashes({f"{name.replace('__', '/')}.py": text for name, text in files.items()})
        return history.find_newest(lambda commit: history.has_hashes(commit, wanted), [ROOM])

    assert newest(a="1", b="2", inner__c="3") == first
    assert newest(a="1", b="3", inner__c="3") == last_before != other
    assert newest(a="2", b="3", inner__c="3") == run(repository, "git", "rev-parse", "HEAD").strip()
    assert newest(a="1", b="2") is None
    one = {f"{ROOM}/a.py": md5("1"), f"{ROOM}/inner": compute_folder_md5({"c.py": md5("3")})}
    assert history.find_newest(lambda commit: history.has_hashes(commit, one), list(one)) == last_before


def test_files_that_dvc_ignores_are_not_in_a_folder(repository):
    (repository / ROOM / "__pycache__").mkdir(parents=True)
    (repository / ROOM / "__pycache__" / "a.txt").write_text("1")
    commit = committed(repository, a="1")
    assert GitHistory(repository).has_hashes(commit, hashes({"a.py": "1"}))


def test_the_digest_of_rooms_is_that_of_a_checkout(repository, tmp_path):
    (repository / ROOM).mkdir(parents=True)
    (repository / ROOM / "table.yaml").write_text("1")
    (repository / ROOM / "notes.txt").write_text("no code")
    commit = committed(repository, a="1", inner__c="3")
    committed(repository, a="2")
    rooms = ("room/inner/c.py", "room")
    with checkout(repository, commit, tmp_path / "tree") as then:
        assert (then / ROOM / "a.py").read_text() == "1"
        there = digest_code(rooms, then / "src" / "prunella")
    assert not then.exists() and run(repository, "git", "worktree", "list").count("\n") == 1
    assert GitHistory(repository).digest_code_at(commit, rooms) == there
    assert GitHistory(repository).digest_code_at("HEAD", rooms) != there


def test_git_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="git log"):
        GitHistory(tmp_path).find_newest(lambda commit: True, ["a"])
