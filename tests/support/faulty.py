"""What the fault tests share: clones of this working tree on a toy, quiet or to be harmed, and rows of what came of it.

Everything is in the folder PRUNELLA_FAULTS (work/faults), so that an interrupted run goes on where it stopped; without
that folder it begins anew. Rows are appended to the file PRUNELLA_FAULTS_TABLE (the folder's faults.jsonl).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from conftest import ROOT
from inprocess import commands
from toygraph import DVC, ENVIRONMENT, committed, of_this_tree, run

from prunella.params.validation import load_shipped_defaults
from prunella.verify.compare import find_differences
from prunella.verify.toys import TOYS, build_toy_params, write_toys

FOLDER = Path(os.environ.get("PRUNELLA_FAULTS", ROOT / "work" / "faults")).resolve()
TABLE = Path(os.environ.get("PRUNELLA_FAULTS_TABLE", FOLDER / "faults.jsonl"))
STUDENT = TOYS["sd"].student
STAGES = list(commands([STUDENT]))  # in an order that the graph allows
# Steps enough that a training lasts longer than the start of its process.
CHANGES = {
    "distill": {"steps": 120, "evaluate_every": 20},
    "finetune": {"steps": 60, "evaluate_every": 20},
    "watch": {"checkpoint_every": 7, "image_every": 60},
    "benchmark": {"prompts": 3, "num_inference_steps": 6},
}


def fresh() -> Path:
    """A clone of this working tree with the toy's parameters, where nothing has run."""
    clone = FOLDER / "fresh"
    if (clone / "ready").is_file():
        return clone
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    of_this_tree(clone)
    write_toys(FOLDER / "toys", ROOT / "data" / "scenes.yaml")
    content = build_toy_params(TOYS["sd"], FOLDER / "toys", load_shipped_defaults())
    (clone / "params.yaml").write_text(yaml.safe_dump({**content, "seed": 1}))
    changed(clone, **CHANGES)
    (clone / "dvc.lock").unlink(missing_ok=True)
    committed(clone)
    (clone / "ready").touch()
    return clone


def changed(clone: Path, **sections: dict) -> None:
    """Give keys of params.yaml other values."""
    content = yaml.safe_load((clone / "params.yaml").read_text())
    for section, values in sections.items():
        content[section] |= values
    (clone / "params.yaml").write_text(yaml.safe_dump(content))


def copied(origin: Path, name: str) -> Path:
    """A copy of a clone, whole or absent; the one that is there already where there is one."""
    clone = FOLDER / name
    if not clone.is_dir():
        half = FOLDER / f"{name}.half"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(origin, half, symlinks=True)
        half.rename(clone)
    return clone


def renewed(origin: Path, name: str) -> Path:
    """A copy of a clone, made anew."""
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    return copied(origin, name)


def quiet() -> tuple[Path, dict[str, dict[str, float]]]:
    """The clone where every stage ran in peace; what each took under DVC, in "seconds", and "bytes" on the disk."""
    clone = copied(fresh(), "quiet")
    note = FOLDER / "quiet.json"
    took = json.loads(note.read_text()) if note.is_file() else {}
    for stage in STAGES:
        if stage not in took:
            began, before = time.monotonic(), used(clone)
            run(clone, DVC, "repro", stage)
            took[stage] = {"seconds": time.monotonic() - began, "bytes": used(clone) - before}
            note.write_text(json.dumps(took))
    return clone, took


def used(folder: Path) -> int:
    """Bytes of the folder's files, each counted once whatever names it has."""
    found = {about.st_ino: about.st_size for path in folder.rglob("*") if (about := path.lstat())}
    return sum(found.values())


def started(clone: Path, stage: str, *options: str) -> subprocess.Popen:
    """`dvc repro` of a stage under way; what it prints goes to the file `printed` beside the clone."""
    with (clone.parent / f"{clone.name}.printed").open("w") as printed:
        command = [DVC, "repro", *options, stage]
        return subprocess.Popen(command, cwd=clone, env=ENVIRONMENT, stdout=printed, stderr=subprocess.STDOUT)


def kill(process: subprocess.Popen) -> bool:
    """Kill -9 of a process and all that it has started; whether the stage's own was among them."""
    top = psutil.Process(process.pid)
    family = [top, *top.children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()
    return len(family) > 1


def lost(ours: Path, theirs: Path, stage: str) -> list[str]:
    """What of a stage's results is another in `ours` than in `theirs`, times and memory apart."""
    lock = yaml.safe_load((theirs / "dvc.lock").read_text())["stages"]
    outs = [each["path"] for each in lock[stage]["outs"]]
    return find_differences(theirs, ours, [out for out in outs if not out.endswith(".html")])


def rows() -> list[dict]:
    """The rows that there are."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.is_file() else []


def noted(fault: str, stage: str) -> bool:
    """Whether there is a row of that already."""
    return any((row["fault"], row["stage"]) == (fault, stage) for row in rows())


def note(fault: str, stage: str, times: int, survived: int, lost: list[str], **more: object) -> None:
    """Append a row."""
    command = f"pytest {' '.join(sys.argv[1:])}"
    row = {"fault": fault, "stage": stage, "times": times, "survived": survived, "lost": lost, **more}
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("a") as file:
        file.write(json.dumps(row | {"command": command}) + "\n")
    print(row)
