import errno
import io
from pathlib import Path

import fsspec
import pytest
from stored import Watched, put

from prunella.errors import UserError
from prunella.storage import remote
from prunella.storage.remote import RemotePath, file_size, map_concurrently, parse_location, relative_name, rglob_sorted


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, content in {"b.tar": "0123456789", "a/c.tar": "abc", "a/c.txt": "", "a.b/d.tar": "x"}.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(content)
    return tmp_path / "here"


def test_a_store_is_seen_as_a_folder_is(folder):
    far = parse_location(put(folder, "places/here"))
    names = [[relative_name(root, path) for path in rglob_sorted(root, "*.tar")] for root in (folder, far)]
    assert names[0] == names[1] == ["a/c.tar", "a.b/d.tar", "b.tar"]
    assert [file_size(path) for path in rglob_sorted(far, "*")] == [3, 0, 1, 10]
    assert [(each / "a").is_dir() and not (each / "a").is_file() for each in (folder, far)] == [True, True]
    assert [(each / "b.tar").is_file() and not (each / "b.tar").is_dir() for each in (folder, far)] == [True, True]
    assert not (far / "none").exists()
    tar = far / "a" / "c.tar"
    assert (str(tar), tar.name, tar.stem, tar.suffix) == ("memory://places/here/a/c.tar", "c.tar", "c", ".tar")
    assert tar.parent == far / "a" and tar.with_name("d") == far / "a" / "d" and tar.with_suffix("") == far / "a" / "c"
    assert relative_name(tar, tar) == "c.tar" and map_concurrently(file_size, [tar, far / "b.tar"]) == [3, 10]


def test_parts_are_as_long_as_there_is_something(folder):
    far = parse_location(put(folder, "places/parts"))
    tar = far / "b.tar"
    assert [tar.read_range(2, 3), tar.read_range(8, 5), tar.read_range(10, 5), tar.read_range(3, 0)] == [
        b"234",
        b"89",
        b"",
        b"",
    ]
    assert (far / "a" / "c.txt").read_range(0, 9) == b"" and tar.read_bytes() == b"0123456789"
    for start, count in ((-1, 2), (1, -2)):
        with pytest.raises(ValueError, match="bytes from"):
            tar.read_range(start, count)


def test_a_file_is_read_through_in_few_requests(folder, monkeypatch):
    far, watched = parse_location(put(folder, "places/through")), Watched()
    monkeypatch.setattr(remote, "_filesystem", lambda kind: watched)
    monkeypatch.setattr(remote, "READ_AHEAD", 4)
    with (far / "b.tar").open() as file:
        assert (file.read(1), file.seek(2), file.read(2), file.seek(-2, io.SEEK_END), file.read()) == (
            b"0", 2, b"23", 8, b"89",
        )  # fmt: skip
    assert [(start, end) for _, start, end in watched.read] == [(0, 4), (8, 10)]


def test_what_changes_is_told_by_marks(folder):
    far = parse_location(put(folder, "places/marks"))
    before = far.etags()
    assert sorted(before) == [f"{far}/{name}" for name in ("a.b/d.tar", "a/c.tar", "a/c.txt", "b.tar")]
    assert far.etags() == before and list((far / "b.tar").etags()) == [f"{far}/b.tar"]
    fsspec.filesystem("memory").pipe_file(f"{far}/b.tar", b"987654321x")
    after = far.etags()
    assert {name for name in before if before[name] != after[name]} == {f"{far}/b.tar"}
    assert (far / "none").etags() == {}
    assert remote._etag({"ETag": '"a"', "size": 3}) == '"a"' and remote._etag({"size": 3}) == "3"


def test_paths_stay_paths_and_odd_addresses_are_refused(tmp_path):
    assert parse_location("data/pictures") == Path("data/pictures") and parse_location(tmp_path) == tmp_path
    with pytest.raises(UserError, match=r"^file:///data: a path of this machine is written without file://$"):
        parse_location("file:///data")
    with pytest.raises(UserError, match=r"^s4://a/b: no such kind of store; s3:// and gs:// are known$"):
        parse_location("s4://a/b")


def test_what_is_not_installed_is_named(monkeypatch):
    def missing(kind):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    remote._open_filesystem.cache_clear()
    for kind in ("s3", "gs"):
        with pytest.raises(UserError, match=rf"^{kind}:// needs what reaches it: pip install 'prunella\[{kind}\]'$"):
            parse_location(f"{kind}://a/b").exists()


class NoCredentialsError(Exception):
    """As botocore calls it."""


NO_CREDENTIALS = (
    "there are no credentials for s3:// (Unable to locate credentials); s3:// takes AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY or AWS_PROFILE from the environment, gs:// GOOGLE_APPLICATION_CREDENTIALS"
)
FAULTS = {
    NO_CREDENTIALS: NoCredentialsError("Unable to locate credentials"),
    "the store refuses it (Forbidden); are these credentials allowed to list and read bucket?": PermissionError(
        "Forbidden"
    ),
    "there is no bucket bucket (The specified bucket does not exist)": FileNotFoundError(
        "The specified bucket does not exist"
    ),
    "the store failed or cannot be reached (RuntimeError: Connect timeout)": RuntimeError("Connect timeout\non line 2"),
    "the store failed or cannot be reached (OSError: [Errno 22] malformed)": OSError(errno.EINVAL, "malformed"),
}


@pytest.mark.parametrize("words", FAULTS)
def test_whatever_goes_wrong_is_one_line(words, monkeypatch):
    class Failing:
        def __getattr__(self, name):
            def fail(*_, **__):
                raise FAULTS[words]

            return fail

    monkeypatch.setattr(remote, "_filesystem", lambda kind: Failing())
    far = parse_location("s3://bucket/pairs")
    for ask in (far.is_file, far.is_dir, far.exists, far.etags, lambda: list(far.rglob("*"))):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value) == f"s3://bucket/pairs: {words}"
    for read in (far.read_bytes, far.size, lambda: far.read_range(3, 4), far.open):
        with pytest.raises(OSError) as failed:
            read()
        if not isinstance(failed.value, FileNotFoundError):  # which says something of the file
            assert (failed.value.errno, failed.value.strerror) == (errno.EIO, words)


def test_names_that_no_store_has_are_no_fault_of_the_store():
    for name in ("a" * 1024, "\udc80"):
        with pytest.raises(ValueError):
            RemotePath("s3", parse_location("s3://bucket").key / name).read_range(0, 1)  # nobody is asked
