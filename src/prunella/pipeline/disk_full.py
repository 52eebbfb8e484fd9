"""A full disk, told from the many errors that it causes, and what a stage leaves half-written there."""

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# torch's writer of checkpoints; safetensors, which is Rust; zip, npz and others by the C library's words
DISK_FULL_PATTERN = re.compile(
    r"inline_container.*unexpected pos|PytorchStreamWriter failed|os error (28|122)|No space left on device"
)


def explain_disk_full(error: BaseException, output_paths: Iterable[Path]) -> str | None:
    """A line that names the place that is full, if that is what `error` comes of, else None.

    If the error does not name a file, the place is that of `output_paths` with the least room.
    """
    for cause in _iter_causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_FULL_ERRNOS:
            filename = cause.filename2 or cause.filename
            return _format_disk_full([Path(str(filename))] if isinstance(filename, str | Path) else output_paths)
        if DISK_FULL_PATTERN.search(str(cause)):
            return _format_disk_full(output_paths)
    return None


def remove_tmp_files(outs: Iterable[Path]) -> None:
    """Remove what was written beside `outs` to be renamed to them."""
    for out in outs:
        for tmp_path in (out.with_name(f"{out.name}.half"), out.with_suffix(".half")):
            if tmp_path.is_dir():
                shutil.rmtree(tmp_path, ignore_errors=True)
            else:
                tmp_path.unlink(missing_ok=True)


def _format_disk_full(paths: Iterable[Path]) -> str:
    existing_dirs = [
        next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir()) for path in paths
    ]
    fullest_dir = min(existing_dirs, key=lambda path: shutil.disk_usage(path).free)
    free_gb = shutil.disk_usage(fullest_dir).free / 1e9
    return f"no room left at {fullest_dir} ({free_gb:,.2f} GB are free); make room and run the stage again, it goes on"


def _iter_causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
