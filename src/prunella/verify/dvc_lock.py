"""What dvc.lock says of a stage, and what but code has changed since."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ruamel.yaml import YAML

from prunella.errors import UserError
from prunella.params import shipped_defaults, unknown, with_defaults
from prunella.pipeline.input_guard import declared

CODE = ("src/prunella/", "stages/")  # dependencies below these are code
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


class Locked(NamedTuple):
    """A stage of dvc.lock: hashes of its dependencies (path → md5), values of its parameters (dotted name → value)."""

    code: dict[str, str]
    data: dict[str, str]
    params: dict[str, Any]


def read_lock(path: Path) -> dict[str, Locked]:
    """The stages of a dvc.lock by their addresses (distill@sd-tiny); none where there is no such file."""
    # DVC writes YAML 1.2, in which 1e-08 is a number; PyYAML reads 1.1, in which it is a text.
    stages = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["stages"] if path.is_file() else {}
    return {address: _locked(stage) for address, stage in stages.items()}


def _locked(stage: dict[str, Any]) -> Locked:
    hashes = {dep["path"]: dep.get("md5", "") for dep in stage.get("deps", [])}
    code = {path: md5 for path, md5 in hashes.items() if path.startswith(CODE)}
    data = {path: md5 for path, md5 in hashes.items() if path not in code}
    return Locked(code, data, flat(stage.get("params", {}).get("params.yaml", {})))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"distill": {"steps": 3}} as {"distill.steps": 3}."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        deeper = isinstance(value, dict) and value
        rows |= flat(value, f"{prefix}{name}.") if deeper else {f"{prefix}{name}": value}
    return rows


def addresses(names: list[str], root: Path) -> list[str]:
    """The stages that are meant: `distill` is all its students, distill@sd-tiny one. Raises UserError for others."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    students = current_params(root)["students"]
    found: list[str] = []
    for name in map(_stage_of, names):
        stage, at, item = name.partition("@")
        if stage not in ACCEPTABLE:
            if stage in stages:
                raise UserError(f"{name}: runs again in seconds; `dvc repro {name}` does (accepted are {_listed()})")
            raise UserError(unknown("stage", name, list(ACCEPTABLE)))
        each = "foreach" in stages[stage]
        if bool(at) > each or (at and item not in students):
            raise UserError(f"{name}: expected {stage}{f'@STUDENT, of {students}' if each else ''}")
        found += [name] if at or not each else [f"{stage}@{student}" for student in students]
    return list(dict.fromkeys(found))


def _stage_of(name: str) -> str:
    """The stage of a name as folders in work/ have them: draw-teacher, draw-sd-tiny-pruned."""
    if name.startswith("draw-"):
        return "draw_teacher" if name == "draw-teacher" else "draw"
    return name


def _listed() -> str:
    return ", ".join(ACCEPTABLE)


def current_params(root: Path) -> dict[str, Any]:
    """params.yaml as it is now, with the shipped defaults for the keys that it lacks."""
    content = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    return with_defaults(content, shipped_defaults(), {})


def changed_params(locked: Locked, keys: list[str], params: dict[str, Any], gone: dict[str, Any]) -> list[str]:
    """Parameters that count as changed; `keys` are those that the stage depends on now.

    A key that dvc.lock lacks is new, and is no change at its shipped default; a key that there is no more is none where
    it had its default of then (`gone`: dotted name → value).
    """
    now = {name: value for name, value in flat(params).items() if any(_below(name, key) for key in keys)}
    shipped, before = flat(shipped_defaults()), locked.params
    changes = []
    for name in sorted(now.keys() | before.keys()):
        if name not in before:
            if now[name] != shipped.get(name):
                changes.append(f"{name} is new, and not at its default {shipped.get(name)!r}: {now[name]!r}")
        elif name not in now:
            if before[name] != gone.get(name):
                changes.append(f"{name} is no parameter any more: {before[name]!r}")
        elif now[name] != before[name]:
            changes.append(f"{name}: {before[name]!r} → {now[name]!r}")
    return changes


def _below(name: str, key: str) -> bool:
    return name == key or name.startswith(f"{key}.")


def stage_keys(address: str, root: Path) -> list[str]:
    """The keys of params.yaml that dvc.yaml lists for a stage."""
    return declared(address, current_params(root), root / "dvc.yaml").keys or []


class Status(NamedTuple):
    """What `dvc status` says of a stage: paths and what became of them (modified, deleted, new, not in cache)."""

    deps: dict[str, str]
    outs: dict[str, str]
    command: bool

    @property
    def code(self) -> bool:
        """Whether code changed, its list or the command."""
        return self.command or any(path.startswith(CODE) for path in self.deps)

    @property
    def others(self) -> list[str]:
        """Changed inputs that are no code, and outs that are not as dvc.lock has them."""
        data = {path: what for path, what in self.deps.items() if not path.startswith(CODE) and isinstance(what, str)}
        outs = {path: what for path, what in self.outs.items() if what != "not in cache"}
        return [f"{path}: {what}" for path, what in (data | outs).items()]


def dvc(root: Path, *arguments: str) -> str:
    """What a dvc command prints. Raises UserError with its own message when it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    done = subprocess.run(command, cwd=root, env=kept, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"dvc {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def statuses(names: list[str], root: Path) -> dict[str, Status]:
    """By address; a stage that is as dvc.lock says is not among them."""
    said = json.loads(dvc(root, "status", "--json", *names) or "{}") if names else {}
    return {address: _status(entries) for address, entries in said.items()}


def _status(entries: list[dict[str, dict[str, str]] | str]) -> Status:
    deps: dict[str, str] = {}
    outs: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, dict):
            deps |= entry.get("changed deps", {})
            outs |= entry.get("changed outs", {})
    return Status(deps, outs, "changed command" in entries)
