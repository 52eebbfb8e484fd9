"""The difference between two results of a stage: figures of reports and curves by name, other files by their bytes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prunella.training.trainer import METRICS
from prunella.verify.dvc_lock import flatten_nested

# What a machine decides and not the code: times, memory, and what says which machine it was.
MACHINE_METRICS = (
    "seconds",
    "per_second",
    "latency_ms",
    "step_ms",
    "speedup",
    "memory_mb",
    "runtime",
    "hardware",
    "outlook",
)
SAMPLES_DIR = "samples"  # of trainings: what an observer drew


def find_differences(old: Path, new: Path, outs: list[str]) -> list[str]:
    """Differences between the folders where the old and the new code ran: in `outs` and in the trainings' rows."""
    logs = {path.relative_to(run_dir) for run_dir in (old, new) for path in run_dir.glob(f"work/*/*/{METRICS}")}
    diffs = [] if not logs else _compare_rows(*(_read_training_rows(run_dir) for run_dir in (old, new)))
    relative_paths = {path for run_dir in (old, new) for out in outs for path in _iter_result_files(run_dir, out)}
    for path in sorted(relative_paths, key=lambda path: (path.suffix not in (".json", ".csv"), str(path))):
        diffs += _compare_files(old / path, new / path, path.as_posix())
    return diffs


def _read_training_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of the training in `run_dir`, whatever its folder is called."""
    logs = sorted(run_dir.glob(f"work/*/*/{METRICS}"))
    return [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]


def _compare_rows(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[str]:
    before, after = ({(row["step"], row["split"]): row for row in rows} for rows in (old, new))
    diffs: list[str] = []
    for step, split in sorted(before.keys() | after.keys()):
        prefix = f"{METRICS} step {step} {split}/"
        diffs += _compare_metrics(before.get((step, split), {}), after.get((step, split), {}), prefix)
    return diffs


def _compare_metrics(old: dict[str, Any], new: dict[str, Any], prefix: str) -> list[str]:
    before, after = (
        {name: value for name, value in flatten_nested(values).items() if _is_compared(name)} for values in (old, new)
    )
    return [
        f"{prefix}{name}: {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in dict.fromkeys([*before, *after])
        # Floats are compared by their digits, so that two NaN are the same.
        if repr(before.get(name, "absent")) != repr(after.get(name, "absent"))
    ]


def _is_compared(name: str) -> bool:
    return not any(machine in part for part in name.split(".") for machine in MACHINE_METRICS)


def _iter_result_files(run_dir: Path, out: str) -> Iterator[Path]:
    path = run_dir / out
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and SAMPLES_DIR not in file.relative_to(run_dir).parts:
            yield file.relative_to(run_dir)


def _compare_files(old: Path, new: Path, name: str) -> list[str]:
    if not old.is_file() or not new.is_file():
        return [f"{name}: {'there → absent' if old.is_file() else 'absent → there'}"]
    if old.read_bytes() == new.read_bytes():
        return []
    if name.endswith(".json"):
        return _compare_metrics(
            _wrap_as_dict(json.loads(old.read_text())), _wrap_as_dict(json.loads(new.read_text())), f"{name} "
        )
    if name.endswith(".csv"):
        return _compare_metrics(_read_csv_cells(old), _read_csv_cells(new), f"{name} ")
    return [f"{name}: other bytes ({old.stat().st_size} → {new.stat().st_size})"]


def _wrap_as_dict(content: Any) -> dict[str, Any]:
    return content if isinstance(content, dict) else {"": content}


def _read_csv_cells(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        return {f"row {i}.{name}": value for i, row in enumerate(csv.DictReader(file)) for name, value in row.items()}
