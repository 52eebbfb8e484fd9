"""Parquet footers that end the process which looks at them.

If a column's statistics contradict its type, Arrow's C++ throws through `RowGroupMetaData.column`, and no Python can
catch that (apache/arrow#45283): the process aborts. Therefore another process looks first.
"""

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock

from prunella.storage.remote import PathOrRemote

CHECK_SCRIPT = """
import sys
import pyarrow.parquet as pq

for line in sys.stdin:
    try:
        with pq.ParquetFile(bytes.fromhex(line).decode(errors="surrogateescape")) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            [group.column(i) for group in groups for i in range(group.num_columns)]
    except Exception:
        pass  # which whoever opens the file sees as well
    sys.stdout.write(".")
    sys.stdout.flush()
"""
LOCK = Lock()
TAIL_BYTES = 1 << 16  # bytes of a file's end that are asked for before it is known how long the footer is
MAX_FOOTER_BYTES = 1 << 28  # bytes of a footer; one that says it is longer is cut off, and so damaged


@contextmanager
def footer_copy(path: PathOrRemote) -> Iterator[Path]:
    """A file of this machine with the footer of `path`: of one on a store, a file as long with nothing but its end."""
    if isinstance(path, Path):
        yield path
        return
    size = path.size()
    tail = path.read_range(max(0, size - TAIL_BYTES), TAIL_BYTES)
    footer_length = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) < min(footer_length, MAX_FOOTER_BYTES, size):
        tail = path.read_range(max(0, size - footer_length), footer_length)
    with NamedTemporaryFile(suffix=".parquet") as file:
        file.truncate(size)
        file.seek(size - len(tail))
        file.write(tail)
        file.flush()
        yield Path(file.name)


def footer_is_safe(path: Path) -> bool:
    """Whether a process that looks at the footer of `path` lives on. Raises MemoryError where it was killed."""
    with LOCK:
        child = _checker_process()
        assert child.stdin and child.stdout
        child.stdin.write(os.fsencode(path.absolute()).hex().encode() + b"\n")
        child.stdin.flush()
        if child.stdout.read(1):
            return True
        _checker_process.cache_clear()
        if (status := _stop_checker(child)) == -signal.SIGKILL:
            raise MemoryError(f"{path}: the process that looked at it was killed")
        if status >= 0:
            raise RuntimeError(f"{path}: the process that looks at footers has ended with status {status}")
        return False


@lru_cache(maxsize=1)
def _checker_process() -> subprocess.Popen[bytes]:
    """The process that looks; it ends when its input does, with this one at the latest."""
    pipe, devnull = subprocess.PIPE, subprocess.DEVNULL
    child = subprocess.Popen([sys.executable, "-c", CHECK_SCRIPT], stdin=pipe, stdout=pipe, stderr=devnull)
    atexit.register(_stop_checker, child)
    return child


def _stop_checker(child: subprocess.Popen[bytes]) -> int:
    """End the process, if it has not ended, and return its status."""
    for pipe in (child.stdin, child.stdout):
        if pipe:
            pipe.close()
    return child.wait()
