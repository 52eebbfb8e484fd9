"""Checkpoints on disk: written beside, checked, then renamed; the newest sound one is taken.

A folder holds `step-000100.pt` with `step-000100.sha256`, the newest two. A checkpoint whose sum does not fit
(half-written, bit rot) is passed over with a warning, and the one before it is taken.
"""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prunella.storage.files import link_or_copy, sha256

CHECKPOINTS_KEPT = 2
_sums: dict[tuple[int, ...], str] = {}  # of files that this process has summed, until they change


def save(folder: Path, step: int, state: dict[str, Any], keep: int = CHECKPOINTS_KEPT) -> None:
    """Write `state` as the checkpoint of `step`; but the newest `keep` are removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.pt"
    half = path.with_suffix(".tmp")
    with half.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".sha256").write_text(_cached_sha256(half))
    half.replace(path)
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)


def remove_partial(folder: Path) -> None:
    """Remove what a process left that was killed, or had no room, while it wrote a checkpoint."""
    for half in folder.rglob("step-*.tmp"):
        half.unlink(missing_ok=True)


def remove_checkpoints(folder: Path, is_unwanted: Callable[[int], bool]) -> None:
    """Remove the checkpoints whose step `is_unwanted` selects."""
    for path in list_checkpoints(folder):
        if is_unwanted(step_of(path)):
            _remove(path)


def link_checkpoint(origin: Path, folder: Path, step: int) -> None:
    """The checkpoint of `step` in another folder too, without a second copy where the file system can."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".sha256", ".pt"):
        link_or_copy(origin / f"step-{step:06d}{suffix}", folder / f"step-{step:06d}{suffix}")


def load(folder: Path | None, device: torch.device | str = "cpu", *, mapped: bool = False) -> dict[str, Any] | None:
    """The newest sound checkpoint of `folder`, or None where there is none.

    With a mapped one, the processes of a machine share the memory; of tensors no more than is used is read.
    """
    path = _find_newest(folder)
    return torch.load(path, map_location=device, weights_only=True, mmap=mapped) if path else None


def newest_step(folder: Path) -> int:
    """The step of the newest sound checkpoint, or 0."""
    path = _find_newest(folder)
    return step_of(path) if path else 0


def _find_newest(folder: Path | None) -> Path | None:
    for path in reversed(list_checkpoints(folder)) if folder else []:
        expected = path.with_suffix(".sha256")
        if expected.is_file() and expected.read_text() == _cached_sha256(path):
            return path
        warnings.warn(f"{path}: broken checkpoint (its sum does not fit), passed over", stacklevel=3)
    return None


def _cached_sha256(path: Path) -> str:
    """A file's sum, taken once: a state has gigabytes, and is asked for at every evaluation."""
    file = path.stat()
    known = (file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)
    if known not in _sums:
        _sums[known] = sha256(path)
    return _sums[known]


def list_checkpoints(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob("step-*.pt"), key=step_of)


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _remove(path: Path) -> None:
    path.unlink()
    path.with_suffix(".sha256").unlink(missing_ok=True)
