"""A student that is not fine-tuned: what it would be tuned from is passed on, so that it is benchmarked as well."""

import shutil
from pathlib import Path

from prunella.training.validation import HELDOUT


def skip_finetune(student: Path, out: Path, curves: Path) -> dict:
    """The folder `student` at `out`, tables of no step in `curves`, and a report that says so."""
    partial_dir = out.with_name(f"{out.name}.half")
    for old in (partial_dir, out):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(student, partial_dir, ignore=shutil.ignore_patterns("best"))
    partial_dir.rename(out)
    (curves / "samples").mkdir(parents=True, exist_ok=True)
    for name, column in (("train", "loss"), (HELDOUT, "task")):
        (curves / f"{name}.csv").write_text(f"step,{column}\n", encoding="utf-8")
    return {"steps": 0, "seconds": 0.0, "passed_on": str(student), "train": {}, "heldout": {}, "best": {}}
