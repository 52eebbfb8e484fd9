"""A folder in which the distill stage can run by itself, without DVC and the stages before it."""

import csv
import json
from pathlib import Path

import yaml
from conftest import ROOT


def stage_folder(folder: Path, content: dict, teacher: Path, latents: Path, pruned: Path) -> Path:
    """Make `folder` with these parameters, a pinned teacher, its latents and a pruned student called sd-tiny."""
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    (folder / "models" / "pruned").mkdir(parents=True)
    (folder / "models" / "teacher.json").write_text(json.dumps({"source": "folder", "path": str(teacher)}))
    (folder / "models" / "pruned" / "sd-tiny").symlink_to(pruned)
    (folder / "data").mkdir()
    (folder / "data" / "latents").symlink_to(latents)
    (folder / "stages").symlink_to(ROOT / "stages")
    (folder / "src").symlink_to(ROOT / "src")
    return folder


def curve(folder: Path, split: str) -> list[dict[str, float]]:
    """The rows of a split of sd-tiny's distillation, without what is time."""
    with (folder / "reports" / "curves" / "distill" / "sd-tiny" / f"{split}.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
