"""The real graph on the toy, in a clone of this working tree."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from conftest import ROOT, toy_params

DVC = Path(sys.executable).with_name("dvc")
IDENTITY = {"user.name": "test", "user.email": "test@example.org", "commit.gpgsign": "false"}  # experiments are commits

# `prunella accept distill` with one toy of five, as a program.
ACCEPT_DISTILL = (
    "from prunella.verify import toys; toys.TOYS_OF_STAGE['distill'] = ('sd',); "
    "from prunella.cli.main import main; main(['accept', 'distill'])"
)

# One thread: toys gain nothing from two, and two tests at once do not wait for each other.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_", "GIT_"))}
ENVIRONMENT |= {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}
# The checkout under test may be another user's, as in a container.
ENVIRONMENT |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}


def run(folder: Path, *command: str | Path, **environment: str) -> str:
    """What a command prints in `folder`; fails with all of it when the command does."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def together(folder: Path, processes: int, script: str | Path, *words: str | Path, **environment: str) -> str:
    """What a script prints that torch's launcher runs in so many processes, with this tree's code, in `folder`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return run(folder, *launcher, script, *words, PYTHONPATH=str(ROOT / "src"), DVC_ROOT=str(folder), **environment)


def stages_run(printed: str) -> set[str]:
    return {line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")}


def committed(folder: Path) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "toy")


def started(
    teacher: Path,
    pictures: Path,
    folder: Path,
    recipe: str | None = None,
    students: list[str] | None = None,
    **environment: str,
) -> tuple[Path, subprocess.Popen, Path]:
    """A clone where `dvc repro` is under way on the toy, its process, and the file it prints to.

    `recipe` names one; `students` are others than it names.
    """
    clone = cloned(teacher, pictures, folder, recipe, students)
    with (folder / "printed").open("w") as printed:
        process = subprocess.Popen(
            [DVC, "repro"], cwd=clone, env=ENVIRONMENT | environment, stdout=printed, stderr=printed
        )
    return clone, process, folder / "printed"


def of_this_tree(clone: Path) -> Path:
    """A clone of this working tree, what is not committed included."""
    run(clone.parent, "git", "clone", "--quiet", ROOT, clone)
    for key, value in IDENTITY.items():
        run(clone, "git", "config", key, value)
    for name in run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    return clone


def cloned(
    teacher: Path,
    pictures: Path,
    folder: Path,
    recipe: str | None = None,
    students: list[str] | None = None,
    watch: dict | None = None,
    **distill: object,
) -> Path:
    """A clone of this working tree with the toy's parameters, those of `distill` changed, all committed."""
    clone = of_this_tree(folder / "clone")
    own = shutil.copytree(teacher, folder / "teacher"), shutil.copytree(pictures, folder / "pictures")
    content = toy_params(*own, recipe)
    content["finetune"]["caption_keywords"] = []
    content["students"] = students or content["students"]
    content["distill"] |= distill
    content["watch"] |= watch or {}
    (clone / "params.yaml").write_text(yaml.safe_dump(content))
    committed(clone)
    return clone
