"""The folders that exports are made of and written to."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prunella.errors import UserError
from prunella.storage.files import link_or_copy

LEFT_OUT = {"best"}  # a UNet alone, which the Hub would take for a second model


def check_replaceable(out: Path, notes: str) -> None:
    """Raises UserError where `out` is there and is no earlier export of its kind, by the file `notes` in it."""
    if out.exists() and not (out / notes).is_file():
        raise UserError(f"--out: {out} is there already and is no export of this kind; name another folder")


def model_files(folder: Path) -> Iterator[Path]:
    """The files of a pipeline folder, as paths inside it, without what is kept beside the model."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] not in LEFT_OUT:
            yield inside


def link_files(folder: Path, out: Path, names: Iterable[Path]) -> None:
    """Those files of `folder` in `out` too, linked where the file system can."""
    for inside in names:
        (out / inside).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy((folder / inside).resolve(), out / inside)
