"""The entry of dvc.lock for a stage, and what but code has changed since."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ruamel.yaml import YAML

from prunella.errors import UserError
from prunella.params import did_you_mean, fill_defaults, load_shipped_defaults
from prunella.params.renames import rename_keys
from prunella.pipeline.input_guard import read_stage_spec

CODE_DIRS = ("src/prunella/", "stages/")  # dependencies below these are code
# Stages whose results the toys give. The others take seconds to run again.
ACCEPTABLE = (
    "filter",
    "encode",
    "prune",
    "distill",
    "finetune",
    "draw_teacher",
    "draw",
    "score_teacher",
    "score",
    "cost",
)


class LockedStage(NamedTuple):
    """A stage of dvc.lock: hashes of its dependencies (path → md5), values of its parameters (dotted name → value)."""

    code: dict[str, str]
    data: dict[str, str]
    params: dict[str, Any]


def read_dvc_lock(path: Path) -> dict[str, LockedStage]:
    """The stages of a dvc.lock by their addresses (distill@sd-tiny); none where there is no such file."""
    # DVC writes YAML 1.2, in which 1e-08 is a number; PyYAML reads 1.1, in which it is a text.
    stages = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    return {address: _parse_locked_stage(stage) for address, stage in stages.items()}


def _parse_locked_stage(stage: dict[str, Any]) -> LockedStage:
    hashes = {dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])}
    code = {path: md5 for path, md5 in hashes.items() if path.startswith(CODE_DIRS)}
    data = {path: md5 for path, md5 in hashes.items() if path not in code}
    return LockedStage(code, data, flatten_nested(rename_keys(nest(stage.get("params", {}).get("params.yaml", {})))))


def nest(values: dict[str, Any]) -> dict[str, Any]:
    """{"distill.phases": []}, as dvc.lock has single keys, as {"distill": {"phases": []}}."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        inner = nested
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = value
    return nested


def flatten_nested(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"distill": {"steps": 3}} as {"distill.steps": 3}."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        is_nested = isinstance(value, dict) and value
        rows |= flatten_nested(value, f"{prefix}{name}.") if is_nested else {f"{prefix}{name}": value}
    return rows


def expand_stage_names(names: list[str], root: Path) -> list[str]:
    """The stages that are meant: `distill` is all its students, distill@sd-tiny one. Raises UserError for others."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    students = read_current_params(root)["students"]
    expanded: list[str] = []
    for name in map(_stage_of_folder, names):
        stage, separator, item = name.partition("@")
        if stage not in ACCEPTABLE:
            if stage in stages:
                raise UserError(
                    f"{name}: runs again in seconds; `dvc repro {name}` does (accepted are {_format_acceptable()})"
                )
            raise UserError(did_you_mean("stage", name, list(ACCEPTABLE)))
        has_students = "foreach" in stages[stage]
        if bool(separator) > has_students or (separator and item not in students):
            raise UserError(f"{name}: expected {stage}{f'@STUDENT, of {students}' if has_students else ''}")
        expanded += [name] if separator or not has_students else [f"{stage}@{student}" for student in students]
    return list(dict.fromkeys(expanded))


def _stage_of_folder(name: str) -> str:
    """The stage of a name as folders in work/ have them: draw-teacher, draw-sd-tiny-pruned."""
    if name.startswith("draw-"):
        return "draw_teacher" if name == "draw-teacher" else "draw"
    return name


def _format_acceptable() -> str:
    return ", ".join(ACCEPTABLE)


def read_current_params(root: Path) -> dict[str, Any]:
    """params.yaml as it is now, with the shipped defaults for the keys that it lacks."""
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    return fill_defaults(content, load_shipped_defaults(), {})


def find_param_changes(
    locked_stage: LockedStage, keys: list[str], params: dict[str, Any], old_defaults: dict[str, Any]
) -> list[str]:
    """Parameters that count as changed; `keys` are those that the stage depends on now.

    A key that dvc.lock lacks is new, and is no change at its shipped default; a key that there is no more is none where
    it had its default of then (`old_defaults`: dotted name → value).
    """
    current_values = {
        name: value for name, value in flatten_nested(params).items() if any(_is_below(name, key) for key in keys)
    }
    defaults, locked_values = flatten_nested(load_shipped_defaults()), locked_stage.params
    changes = []
    for name in sorted(current_values.keys() | locked_values.keys()):
        if name not in locked_values:
            if current_values[name] != defaults.get(name):
                changes.append(
                    f"{name} is new, and not at its default {defaults.get(name)!r}: {current_values[name]!r}"
                )
        elif name not in current_values:
            if locked_values[name] != old_defaults.get(name):
                changes.append(f"{name} is no parameter any more: {locked_values[name]!r}")
        elif current_values[name] != locked_values[name]:
            changes.append(f"{name}: {locked_values[name]!r} → {current_values[name]!r}")
    return changes


def _is_below(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def read_stage_keys(address: str, root: Path) -> list[str]:
    """The keys of params.yaml that dvc.yaml lists for a stage."""
    return read_stage_spec(address, read_current_params(root), root / "dvc.yaml").keys or []


class StageStatus(NamedTuple):
    """The status of a stage by `dvc status`: paths and what became of them (modified, deleted, new, not in cache)."""

    deps: dict[str, str]
    outs: dict[str, str]
    command: bool

    @property
    def code(self) -> bool:
        """Whether code changed, its list or the command."""
        return self.command or any(path.startswith(CODE_DIRS) for path in self.deps)

    @property
    def other_changes(self) -> list[str]:
        """Changed inputs that are no code, and outs that are not as dvc.lock has them."""
        data = {
            path: change
            for path, change in self.deps.items()
            if not path.startswith(CODE_DIRS) and isinstance(change, str)
        }
        outs = {path: change for path, change in self.outs.items() if change != "not in cache"}
        return [f"{path}: {change}" for path, change in (data | outs).items()]


def run_dvc(root: Path, *arguments: str) -> str:
    """The output of a dvc command. Raises UserError with its own message when it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"dvc {arguments[0]}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout


def query_dvc_status(names: list[str], root: Path) -> dict[str, StageStatus]:
    """By address; a stage that is as dvc.lock says is not among them."""
    status_by_address = json.loads(run_dvc(root, "status", "--json", *names) or "{}") if names else {}
    return {address: _parse_dvc_status(entries) for address, entries in status_by_address.items()}


def _parse_dvc_status(entries: list[dict[str, dict[str, str]] | str]) -> StageStatus:
    deps: dict[str, str] = {}
    outs: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, dict):
            deps |= entry.get("changed deps", {})
            outs |= entry.get("changed outs", {})
    return StageStatus(deps, outs, "changed command" in entries)
