"""A full disk, told from the many errors that it causes, and what a stage leaves half-written there."""

import errno
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# torch's writer of checkpoints; safetensors, which is Rust; zip, npz and others by the C library's words
SAID = re.compile(
    r"inline_container.*unexpected pos|PytorchStreamWriter failed|os error (28|122)|No space left on device"
)


def no_room(error: BaseException, written: Iterable[Path]) -> str | None:
    """A line that names the place that is full, if that is what `error` comes of, else None.

    Where the error does not name a file, the place is that of `written` with the least room.
    """
    for each in _chain(error):
        if isinstance(each, OSError) and each.errno in FULL:
            named = each.filename2 or each.filename
            return _said([Path(str(named))] if isinstance(named, str | Path) else written)
        if SAID.search(str(each)):
            return _said(written)
    return None


def remove_halves(outs: Iterable[Path]) -> None:
    """Remove what was written beside `outs` to be renamed to them."""
    for out in outs:
        for half in (out.with_name(f"{out.name}.half"), out.with_suffix(".half")):
            if half.is_dir():
                shutil.rmtree(half, ignore_errors=True)
            else:
                half.unlink(missing_ok=True)


def _said(places: Iterable[Path]) -> str:
    there = [next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir()) for path in places]
    place = min(there, key=lambda path: shutil.disk_usage(path).free)
    free = shutil.disk_usage(place).free / 1e9
    return f"no room left at {place} ({free:,.2f} GB are free); make room and run the stage again, it goes on"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
