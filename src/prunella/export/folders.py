"""The folders that exports are made of and written to."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from prunella.errors import UserError
from prunella.storage.files import link_or_copy

EXCLUDED_DIRS = {"best"}  # a UNet alone, which the Hub would take for a second model


def check_replaceable(out: Path, report_name: str) -> None:
    """Raises UserError where `out` is there and is no earlier export of its kind, by the file `report_name` in it."""
    if out.exists() and not (out / report_name).is_file():
        raise UserError(f"--out: {out} is there already and is no export of this kind; name another folder")


def iter_model_files(folder: Path) -> Iterator[Path]:
    """The files of a pipeline folder, as paths inside it, without what is kept beside the model."""
    for path in sorted(folder.rglob("*")):
        relative_path = path.relative_to(folder)
        if path.is_file() and relative_path.parts[0] not in EXCLUDED_DIRS:
            yield relative_path


def link_files(folder: Path, out: Path, relative_paths: Iterable[Path]) -> None:
    """Those files of `folder` in `out` too, linked where the file system can."""
    for relative_path in relative_paths:
        (out / relative_path).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy((folder / relative_path).resolve(), out / relative_path)
