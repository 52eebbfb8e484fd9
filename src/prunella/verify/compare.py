"""Where two results of a stage differ: figures of reports and curves by name, other files by their bytes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunella.training.trainer import METRICS
from prunella.verify.dvc_lock import flat

# What a machine decides and not the code: times, memory, and what says which machine it was.
MACHINE = ("seconds", "per_second", "latency_ms", "memory_mb", "runtime", "hardware", "outlook")
PICTURES = "samples"  # of trainings: what an observer drew


def differences(old: Path, new: Path, outs: list[str]) -> list[str]:
    """What differs between the folders where the old and the new code ran: in `outs` and in the trainings' rows."""
    logs = {path.relative_to(place) for place in (old, new) for path in place.glob(f"work/*/*/{METRICS}")}
    found = [] if not logs else _rows_differ(*(_training_rows(place) for place in (old, new)))
    inside = {path for place in (old, new) for out in outs for path in _files(place, out)}
    for path in sorted(inside, key=lambda path: (path.suffix not in (".json", ".csv"), str(path))):
        found += _file_differs(old / path, new / path, path.as_posix())
    return found


def _training_rows(place: Path) -> list[dict[str, Any]]:
    """The rows of the training in `place`, whatever its folder is called."""
    logs = sorted(place.glob(f"work/*/*/{METRICS}"))
    return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]


def _rows_differ(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    before, after = ({(row["step"], row["split"]): row for row in rows} for rows in (old, new))
    found: list[str] = []
    for step, split in sorted(before.keys() | after.keys()):
        where = f"{METRICS} step {step} {split}/"
        found += _figures_differ(before.get((step, split), {}), after.get((step, split), {}), where)
    return found


def _figures_differ(old: dict[str, Any], new: dict[str, Any], where: str) -> list[str]:
    before, after = ({name: value for name, value in flat(values).items() if _told(name)} for values in (old, new))
    return [
        f"{where}{name}: {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in dict.fromkeys([*before, *after])
        # Floats are compared by their digits, so that two NaN are the same.
        if repr(before.get(name, "absent")) != repr(after.get(name, "absent"))
    ]


def _told(name: str) -> bool:
    return not any(machine in part for part in name.split(".") for machine in MACHINE)


def _files(place: Path, out: str) -> Iterator[Path]:
    path = place / out
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and PICTURES not in file.relative_to(place).parts:
            yield file.relative_to(place)


def _file_differs(old: Path, new: Path, name: str) -> list[str]:
    if not old.is_file() or not new.is_file():
        return [f"{name}: {'there → absent' if old.is_file() else 'absent → there'}"]
    if old.read_bytes() == new.read_bytes():
        return []
    if name.endswith(".json"):
        return _figures_differ(_table(json.loads(old.read_text())), _table(json.loads(new.read_text())), f"{name} ")
    if name.endswith(".csv"):
        return _figures_differ(_cells(old), _cells(new), f"{name} ")
    return [f"{name}: other bytes ({old.stat().st_size} → {new.stat().st_size})"]


def _table(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {"": content}


def _cells(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        return {f"row {i}.{name}": value for i, row in enumerate(csv.DictReader(file)) for name, value in row.items()}
