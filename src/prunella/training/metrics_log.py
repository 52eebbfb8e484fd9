"""The numbers of a training by step, in a `metrics.jsonl` that is the truth of the run.

A line is {"step": …, "split": "train" | "heldout", name: value, …}. It is on disk before the observer is told. A
resumed run forgets what was written after its checkpoint and goes on.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from prunella.storage.files import atomic_write_text

MetricsHook = Callable[[int, dict[str, float]], None]


class MetricsLog:
    """`on_row` is called with the step and the values, named "split/name", of each row that is written."""

    def __init__(self, path: Path, on_row: MetricsHook | None = None):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.on_row = path, on_row

    def rows(self, split: str | None = None) -> list[dict]:
        """The rows of a split, or all. A damaged line, as a killed process leaves one, is passed over."""
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.is_file() else []
        rows = [row for row in map(_parse_row, lines) if row is not None]
        return [row for row in rows if split in (None, row["split"])]

    def keep_rows(self, is_wanted: Callable[[dict], bool]) -> None:
        """Forget the rows that are not wanted."""
        rows = [row for row in self.rows() if is_wanted(row)]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))

    def resume(self, step: int) -> None:
        """Forget what was written after `step`."""
        self.keep_rows(lambda row: row["step"] <= step)

    def log_metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        if self.on_row:
            self.on_row(step, {f"{split}/{name}": value for name, value in values.items()})

    def export_csv(self, out: Path) -> None:
        """A folder of what there is to plot: a CSV for each split, and the folders of pictures."""
        for split in dict.fromkeys(row["split"] for row in self.rows()):
            self._write_table(split, out / f"{split}.csv")
        for folder in sorted(path for path in self.path.parent.iterdir() if path.is_dir() and any(path.glob("*.png"))):
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)

    def _write_table(self, split: str, out: Path) -> None:
        """The rows of a split as CSV, for plots: column `step`, then one a measurement."""
        rows = [{name: value for name, value in row.items() if name != "split"} for row in self.rows(split)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            table.writeheader()
            table.writerows(rows)


def _parse_row(line: str) -> dict | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    is_row = isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("split"), str)
    return row if is_row else None
