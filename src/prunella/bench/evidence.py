"""Rows of evidence: a JSONL file, a row a measurement, each written as soon as it is known and measured once."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prunella.errors import UserError
from prunella.storage.files import atomic_write_text

EvidenceRow = dict[str, Any]


def read_rows(path: Path) -> list[EvidenceRow]:
    """The rows so far. Raises UserError where a line is no JSON; a last one that was cut off is none."""
    try:
        return [json.loads(line) for line in _read_complete_lines(path)]
    except ValueError as error:
        raise UserError(f"{path}: a line is no JSON ({error}); remove it") from None


def add_row(path: Path, row: EvidenceRow) -> None:
    """Write `row` behind those that are there, in the place of a line that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "".join([*_read_complete_lines(path), json.dumps(row) + "\n"]))


def load_or_measure_row(path: Path, identity: EvidenceRow, measure: Callable[[], EvidenceRow]) -> EvidenceRow:
    """The row that has all that is in `name`; where there is none it is measured, and written with that name."""
    for row in read_rows(path):
        if row.items() >= identity.items():
            return row
    new_row = identity | measure()
    add_row(path, new_row)
    return new_row


def format_command_line(out: Path | None = None) -> str:
    """The command of ours that runs, as a shell takes it; without `--out`, since where rows go decides no row."""
    return shlex.join(["prunella", *sys.argv[1:]]).replace(f" --out {out}", "")


def _read_complete_lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [line for line in lines if line.endswith("\n")]
