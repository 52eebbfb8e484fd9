"""Toys that are made once on a machine, however many workers test on it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

Once = Callable[[str, Callable[[Path], object]], Path]


def made_once(factory: pytest.TempPathFactory, worker: str) -> Once:
    """A function from a name and what makes a folder to that folder: the first worker makes it, the others wait."""
    base = factory.getbasetemp()
    root = base / "toys" if worker == "master" else base.parent / "toys"
    root.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, made = root / name, root / f"{name}.made"
        with FileLock(root / f"{name}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed half-way
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once
