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
from prunella.params.renames import rename_keys, restore_keys
from prunella.verify.toys import DEFAULT_TOYS, TOYS, TOYS_OF_STAGE, build_toy_params, write_toys

RUNNER = Path(__file__).with_name("runner.py")
COMMAND_PREFIX = ["sh", "stages/python"]  # of every stage's command


class CodeVersion(NamedTuple):
    """A version of the repository: its files, and its graph and defaults as read from them."""

    folder: Path
    stages: dict[str, dict[str, Any]]
    defaults: dict[str, Any]


def load_code_version(folder: Path) -> CodeVersion:
    """The version that is checked out in `folder`."""
    defaults_path = folder / "src" / "prunella" / "defaults.yaml"
    defaults = yaml.safe_load(
        (defaults_path if defaults_path.is_file() else folder / "params.yaml").read_text(encoding="utf-8")
    )
    graph = fill_default_templates((folder / "dvc.yaml").read_text(encoding="utf-8"), defaults)
    return CodeVersion(folder, yaml.safe_load(graph)["stages"], defaults)


def fill_default_templates(graph: str, defaults: dict[str, Any]) -> str:
    """The text of dvc.yaml with each ${section.key} that is a text by default, as DVC fills it in; the others stay."""

    def resolve(match: re.Match[str]) -> str:
        node: Any = defaults
        for key in match[1].split("."):
            node = node.get(key) if isinstance(node, dict) else None
        return node if isinstance(node, str) else match[0]

    return re.sub(r"\$\{([\w.]+)\}", resolve, graph)


class ToyResult(NamedTuple):
    """A stage of a toy, and the folders where it ran by the old code and by the new."""

    stage: str
    toy: str
    old: Path
    new: Path

    def list_outs(self, version: CodeVersion) -> list[str]:
        """The paths of what the stage writes."""
        paths = _list_stage_paths(_get_stage_body(version.stages[self.stage]), "outs", "metrics", "plots")
        return [path.replace("${item}", TOYS[self.toy].student) for path in paths]


def run_toys(stages: list[str], old: CodeVersion, new: CodeVersion, folder: Path) -> list[ToyResult]:
    """Run `stages` on the toys by both versions, below `folder`; what they start from is made by the new one."""
    shared, defaults = folder / "shared", merge_defaults(rename_keys(old.defaults), new.defaults)
    write_toys(shared, new.folder / "data" / "scenes.yaml")
    outcomes = [
        ToyResult(stage, toy, folder / "old" / stage / toy, folder / "new" / stage / toy)
        for stage in stages
        for toy in TOYS_OF_STAGE.get(stage, DEFAULT_TOYS)
    ]
    names = list(dict.fromkeys(outcome.toy for outcome in outcomes))
    prepared = folder / "prepared"
    for name in names:
        _write_params(prepared / name, drop_unknown_keys(build_toy_params(TOYS[name], shared, defaults), new.defaults))
        (prepared / name / "plans").mkdir()
    prepare_jobs = [
        _build_job(stage, name, new, prepared / name)
        for name in names
        for stage in find_upstream_stages(
            [each for each in stages if name in TOYS_OF_STAGE.get(each, DEFAULT_TOYS)], new
        )
    ]
    _wait_for_runner("today's code", _spawn_runner(new, prepare_jobs))
    for outcome in outcomes:
        params = build_toy_params(TOYS[outcome.toy], shared, defaults)
        for version, run_dir in ((old, outcome.old), (new, outcome.new)):
            shutil.copytree(prepared / outcome.toy, run_dir, ignore=shutil.ignore_patterns("work"))
            for out in outcome.list_outs(version):
                _remove_path(run_dir / out)
            _write_params(run_dir, drop_unknown_keys(restore_keys(params, version.defaults), version.defaults))
    old_process = _spawn_runner(old, [_build_job(each.stage, each.toy, old, each.old) for each in outcomes])
    new_process = _spawn_runner(new, [_build_job(each.stage, each.toy, new, each.new) for each in outcomes])
    try:
        _wait_for_runner("the code of then", old_process)
        _wait_for_runner("today's code", new_process)
    finally:
        new_process.kill()  # where the other failed
        new_process.wait()
    return outcomes


def find_upstream_stages(stages: list[str], version: CodeVersion) -> list[str]:
    """The stages that give what `stages` start from, in the graph's order."""
    outs = {
        name: _list_stage_paths(_get_stage_body(stage), "outs", "metrics", "plots")
        for name, stage in version.stages.items()
    }
    pending, selected = list(stages), set[str]()
    while pending:
        deps = _list_stage_paths(_get_stage_body(version.stages[pending.pop()]), "deps")
        producers = {
            name for name, paths in outs.items() if any(_paths_overlap(dep, out) for dep in deps for out in paths)
        }
        added = {name for name in producers - selected if _is_run_by_toys(version.stages[name])}
        selected |= added
        pending += added
    return [name for name in version.stages if name in selected]


def _is_run_by_toys(stage: dict[str, Any]) -> bool:
    """Whether a toy runs the stage: neither a frozen one nor one of a section that is empty by default."""
    return not stage.get("frozen") and stage.get("foreach", "${students}") == "${students}"


def _paths_overlap(path: str, other: str) -> bool:
    """Whether one is the other, or inside it."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


def _get_stage_body(stage: dict[str, Any]) -> dict[str, Any]:
    return stage.get("do", stage)


def _list_stage_paths(body: dict[str, Any], *kinds: str) -> list[str]:
    """The paths that a stage lists, without their settings; ${item} is left as it is."""
    entries = [entry for kind in kinds for entry in body.get(kind, [])]
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _write_params(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _remove_path(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def merge_defaults(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The defaults of both versions; where one has changed, both versions are tried with the new one."""
    merged = {**old, **new}
    for name in old.keys() & new.keys():
        if isinstance(old[name], dict) and isinstance(new[name], dict):
            merged[name] = merge_defaults(old[name], new[name])
    return merged


def drop_unknown_keys(content: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`content` without the keys that the defaults do not have; a section that is empty there may hold any."""
    return {
        name: drop_unknown_keys(value, defaults[name]) if isinstance(value, dict) and defaults[name] else value
        for name, value in content.items()
        if name in defaults
    }


def _build_job(stage: str, toy: str, version: CodeVersion, folder: Path) -> dict[str, Any]:
    arguments = shlex.split(_get_stage_body(version.stages[stage])["cmd"].replace("${item}", TOYS[toy].student))
    if arguments[:2] != COMMAND_PREFIX:
        raise UserError(f"{stage}: its command in dvc.yaml begins with {arguments[:2]}, not with {COMMAND_PREFIX}")
    script = str(version.folder / arguments[2])
    return {"name": f"{stage} of {toy}", "folder": str(folder), "script": script, "words": arguments[3:]}


def _spawn_runner(version: CodeVersion, jobs: list[dict[str, Any]]) -> subprocess.Popen[str]:
    """A process that runs the jobs by the code of a version, with one thread."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(version.folder / "src"), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(RUNNER)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdin
    process.stdin.write(json.dumps(jobs))
    process.stdin.close()
    process.stdin = None
    return process


def _wait_for_runner(code_label: str, process: subprocess.Popen[str]) -> None:
    """Wait for it. Raises UserError, with the end of what it printed, where a stage failed."""
    output, _ = process.communicate()
    if process.returncode:
        end = "\n".join(output.strip().splitlines()[-8:])
        raise UserError(f"the toys do not run by {code_label}:\n{end}")
