"""The journal of a training: its numbers by step, in a `metrics.jsonl` that is the truth of the run.

A line is {"step": …, "split": "train" | "heldout", name: value, …}. It is on disk before the mirror (MLflow) is
told. A resumed run forgets what was written after its checkpoint and goes on.
"""

import csv
import json
import shutil
from pathlib import Path
from typing import Protocol

from PIL import Image

from prunella.files import atomic_write_text


class Tracker(Protocol):
    """What a journal is mirrored to."""

    def metrics(self, step: int, values: dict[str, float]) -> None: ...
    def picture(self, step: int, name: str, image: Image.Image) -> None: ...


class NullTracker:
    """A mirror that shows nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Nothing."""

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Nothing."""


class MetricsLog:
    def __init__(self, path: Path, mirror: Tracker):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.mirror = path, mirror

    def rows(self, split: str | None = None) -> list[dict]:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        rows = []
        for line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError:  # the last line of a killed run
                continue
        return [row for row in rows if split in (None, row["split"])]

    def resume(self, step: int) -> None:
        """Forget what was written after `step`."""
        kept = [row for row in self.rows() if row["step"] <= step]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def metrics(self, step: int, split: str, values: dict[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self.mirror.metrics(step, {f"{split}/{name}": value for name, value in values.items()})

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        """Keep a picture as NAME/STEP.png beside the numbers."""
        path = self.path.parent / name / f"{step}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        self.mirror.picture(step, name, image)

    def tables(self, out: Path) -> None:
        """A folder of what there is to plot: a CSV for each split, and the folders of pictures."""
        for split in dict.fromkeys(row["split"] for row in self.rows()):
            self.table(split, out / f"{split}.csv")
        for folder in sorted(path for path in self.path.parent.iterdir() if path.is_dir()):
            shutil.copytree(folder, out / folder.name, dirs_exist_ok=True)

    def table(self, split: str, out: Path) -> None:
        """The rows of a split as CSV, for plots: column `step`, then one a measurement."""
        rows = [{name: value for name, value in row.items() if name != "split"} for row in self.rows(split)]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", newline="") as file:
            table = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            table.writeheader()
            table.writerows(rows)
