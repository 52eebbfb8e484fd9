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
from prunella.storage.remote import Remote

WAITS = (2, 10, 60)  # seconds until a store that failed is asked again, beside what its library tries
AGAIN = "`dvc repro --force --single-item` of the stage that made it makes what is missing"


def copied(far: Remote, sum: str, folder: Path) -> Path:
    """The copy of a file in `folder`, fetched where it is not there, its sum checked either way.

    Raises UserError where the store has no such file, another one, or cannot be reached.
    """
    copy = folder / sum
    with _one_at_a_time(folder, sum):
        if copy.is_file() and sha256(copy) == sum:
            return copy
        half = copy.with_suffix(".half")  # of whoever was killed, if it is there
        _fetched(far, half)
        if sha256(half) != sum:
            half.unlink()
            raise UserError(f"{far}: damaged, its content is not what was written; remove it there, and {AGAIN}")
        half.replace(copy)
    return copy


def _fetched(far: Remote, half: Path) -> None:
    """Fetch the file, again after a while where the store fails: a training of days need not end by that."""
    for wait in (*WAITS, None):
        try:
            return far.fetch(half)
        except FileNotFoundError:
            raise UserError(f"{far}: is not on the store any more; {AGAIN}") from None
        except OSError as error:
            if error.errno != errno.EIO:  # the disk here
                raise
            if wait is None:
                raise UserError(f"{far}: {error.strerror}; run the stage again once that is mended") from None
            print(f"{far}: {error.strerror}; asked again in {wait} s", file=sys.stderr, flush=True)
            time.sleep(wait)


def let_go(sum: str, folder: Path) -> None:
    """Remove a copy; a process that has it mapped goes on with it."""
    (folder / sum).unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path, sum: str) -> Iterator[None]:
    """Within the block no other process and thread has this sum, nor a few others: locks of all would pile up."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{sum[:2]}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
