"""Copies here of files on a store, which the processes of a machine share: each is named by the sum of its content."""

import errno
import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prunella.errors import UserError
from prunella.storage.files import sha256
from prunella.storage.remote import RemotePath

RETRY_DELAYS = (2, 10, 60)  # seconds until a store that failed is asked again, beside what its library tries
RESTORE_HINT = "`dvc repro --force --single-item` of the stage that made it makes what is missing"


def fetch_cached(remote: RemotePath, digest: str, folder: Path) -> Path:
    """The copy of a file in `folder`, fetched where it is not there, its sum checked either way.

    Raises UserError where the store has no such file, another one, or cannot be reached.
    """
    cached = folder / digest
    with _file_lock(folder, digest):
        if cached.is_file() and sha256(cached) == digest:
            return cached
        tmp_path = cached.with_suffix(".half")  # of whoever was killed, if it is there
        _download_with_retries(remote, tmp_path)
        if sha256(tmp_path) != digest:
            tmp_path.unlink()
            raise UserError(
                f"{remote}: damaged, its content is not what was written; remove it there, and {RESTORE_HINT}"
            )
        tmp_path.replace(cached)
    return cached


def _download_with_retries(remote: RemotePath, tmp_path: Path) -> None:
    """Fetch the file, again after a while where the store fails: a training of days need not end by that."""
    for delay in (*RETRY_DELAYS, None):
        try:
            return remote.download(tmp_path)
        except FileNotFoundError:
            raise UserError(f"{remote}: is not on the store any more; {RESTORE_HINT}") from None
        except OSError as error:
            if error.errno != errno.EIO:  # the disk here
                raise
            if delay is None:
                raise UserError(f"{remote}: {error.strerror}; run the stage again once that is mended") from None
            print(f"{remote}: {error.strerror}; asked again in {delay} s", file=sys.stderr, flush=True)
            time.sleep(delay)


def evict_cached(digest: str, folder: Path) -> None:
    """Remove a copy; a process that has it mapped goes on with it."""
    (folder / digest).unlink(missing_ok=True)


@contextmanager
def _file_lock(folder: Path, digest: str) -> Iterator[None]:
    """Within the block no other process and thread has this sum, nor a few others: locks of all would pile up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{digest[:2]}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
