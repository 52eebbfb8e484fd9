"""Two versions of the code run the same stages on the same toys; where their results differ."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from prunella.errors import UserError
from prunella.verify.toys import DRAWN, TOLD, TOYS, toy_params, write_toys

RUNNER = Path(__file__).with_name("runner.py")
PREFIX = ["sh", "stages/python"]  # of every stage's command


class Tree(NamedTuple):
    """A version of the repository: its files, and its graph and defaults as read from them."""

    folder: Path
    stages: dict[str, dict[str, Any]]
    defaults: dict[str, Any]


def tree(folder: Path) -> Tree:
    """The version that is checked out in `folder`."""
    shipped = folder / "src" / "prunella" / "defaults.yaml"
    defaults = yaml.safe_load((shipped if shipped.is_file() else folder / "params.yaml").read_text(encoding="utf-8"))
    graph = filled((folder / "dvc.yaml").read_text(encoding="utf-8"), defaults)
    return Tree(folder, yaml.safe_load(graph)["stages"], defaults)


def filled(graph: str, defaults: dict[str, Any]) -> str:
    """The text of dvc.yaml with each ${section.key} that is a text by default, as DVC fills it in; the others stay."""

    def value(match: re.Match[str]) -> str:
        found: Any = defaults
        for key in match[1].split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, str) else match[0]

    return re.sub(r"\$\{([\w.]+)\}", value, graph)


class Outcome(NamedTuple):
    """A stage of a toy, and the folders where it ran by the old code and by the new."""

    stage: str
    toy: str
    old: Path
    new: Path

    def outs(self, version: Tree) -> list[str]:
        """The paths of what the stage writes."""
        listed = _listed(_body(version.stages[self.stage]), "outs", "metrics", "plots")
        return [path.replace("${item}", TOYS[self.toy].student) for path in listed]


def try_out(stages: list[str], old: Tree, new: Tree, folder: Path) -> list[Outcome]:
    """Run `stages` on the toys by both versions, below `folder`; what they start from is made by the new one."""
    shared, defaults = folder / "shared", together(old.defaults, new.defaults)
    write_toys(shared, new.folder / "data" / "scenes.yaml")
    outcomes = [
        Outcome(stage, toy, folder / "old" / stage / toy, folder / "new" / stage / toy)
        for stage in stages
        for toy in TOLD.get(stage, DRAWN)
    ]
    names = list(dict.fromkeys(outcome.toy for outcome in outcomes))
    prepared = folder / "prepared"
    for name in names:
        _write_params(prepared / name, known(toy_params(TOYS[name], shared, defaults), new.defaults))
        (prepared / name / "plans").mkdir()
    before = [
        _job(stage, name, new, prepared / name)
        for name in names
        for stage in upstream([each for each in stages if name in TOLD.get(each, DRAWN)], new)
    ]
    _finish("today's code", _start(new, before))
    for outcome in outcomes:
        params = toy_params(TOYS[outcome.toy], shared, defaults)
        for version, place in ((old, outcome.old), (new, outcome.new)):
            shutil.copytree(prepared / outcome.toy, place, ignore=shutil.ignore_patterns("work"))
            for out in outcome.outs(version):
                _remove(place / out)
            _write_params(place, known(params, version.defaults))
    then = _start(old, [_job(each.stage, each.toy, old, each.old) for each in outcomes])
    now = _start(new, [_job(each.stage, each.toy, new, each.new) for each in outcomes])
    try:
        _finish("the code of then", then)
        _finish("today's code", now)
    finally:
        now.kill()  # where the other failed
        now.wait()
    return outcomes


def upstream(stages: list[str], version: Tree) -> list[str]:
    """The stages that give what `stages` start from, in the graph's order."""
    outs = {name: _listed(_body(stage), "outs", "metrics", "plots") for name, stage in version.stages.items()}
    wanted, found = list(stages), set[str]()
    while wanted:
        deps = _listed(_body(version.stages[wanted.pop()]), "deps")
        makers = {name for name, paths in outs.items() if any(_meet(dep, out) for dep in deps for out in paths)}
        fresh = {name for name in makers - found if _runs(version.stages[name])}
        found |= fresh
        wanted += fresh
    return [name for name in version.stages if name in found]


def _runs(stage: dict[str, Any]) -> bool:
    """Whether a toy runs the stage: neither a frozen one nor one of a section that is empty by default."""
    return not stage.get("frozen") and stage.get("foreach", "${students}") == "${students}"


def _meet(path: str, other: str) -> bool:
    """Whether one is the other, or inside it."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


def _body(stage: dict[str, Any]) -> dict[str, Any]:
    return stage.get("do", stage)


def _listed(body: dict[str, Any], *kinds: str) -> list[str]:
    """The paths that a stage lists, without their settings; ${item} is left as it is."""
    entries = [entry for kind in kinds for entry in body.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _write_params(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def together(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The defaults of both versions; where one has changed, both versions are tried with the new one."""
    merged = {**old, **new}
    for name in old.keys() & new.keys():
        if isinstance(old[name], dict) and isinstance(new[name], dict):
            merged[name] = together(old[name], new[name])
    return merged


def known(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`content` without the keys that the defaults do not have; a section that is empty there may hold any."""
    return {
        name: known(value, defaults[name]) if isinstance(value, dict) and defaults[name] else value
        for name, value in content.items()
        if name in defaults
    }


def _job(stage: str, toy: str, version: Tree, folder: Path) -> dict[str, Any]:
    words = shlex.split(_body(version.stages[stage])["cmd"].replace("${item}", TOYS[toy].student))
    if words[:2] != PREFIX:
        raise UserError(f"{stage}: its command in dvc.yaml begins with {words[:2]}, not with {PREFIX}")
    script = str(version.folder / words[2])
    return {"name": f"{stage} of {toy}", "folder": str(folder), "script": script, "words": words[3:]}


def _start(version: Tree, jobs: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """A process that runs the jobs by the code of a version, with one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    kept |= {"PYTHONPATH": str(version.folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(RUNNER)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=kept
    )
    assert process.stdin
    process.stdin.write(json.dumps(jobs))
    process.stdin.close()
    process.stdin = None
    return process


def _finish(whose: str, process: subprocess.Popen[str]) -> None:
    """Wait for it. Raises UserError, with the end of what it printed, where a stage failed."""
    printed, _ = process.communicate()
    if process.returncode:
        end = "\n".join(printed.strip().splitlines()[-8:])
        raise UserError(f"the toys do not run by {whose}:\n{end}")
