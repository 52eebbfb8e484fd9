"""Who runs what: the commit, whether files differ from it, the user, and what parameters differ from the committed."""

import getpass
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

NAMED = 3  # changed parameters in a run's name
LONGEST = 24  # characters of a value there


def origin_tags() -> dict[str, str]:
    """Tags of a run: DVC's experiment, commit (in an experiment the one it started from), user, interpreter, code."""
    commit = _commit()
    tags = {
        "git.commit": commit,
        "git.dirty": str(bool(_git("status", "--porcelain", "--untracked-files=no"))).lower() if commit else "",
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.stage": os.environ.get("DVC_STAGE", "").rpartition(":")[2],
        "interpreter": sys.executable,
        "code": str(Path(__file__).parents[1]),
        # What MLflow's pages show in the columns "Source" and "Created by".
        "mlflow.user": user(),
        "mlflow.source.name": "prunella",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
    }
    return {name: value for name, value in tags.items() if value}


def user() -> str:
    """Who runs this, by MLFLOW_TRACKING_USERNAME or the login; "" where neither says."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def title(params: dict[str, Any]) -> str:
    """What tells an execution from others: DVC's experiment or the students, and the parameters that were changed.

    "sd-tiny · distill.feature_weight=1.0", compared with params.yaml of the commit that it started from.
    """
    students = params.get("students", [])
    head = os.environ.get("DVC_EXP_NAME") or ", ".join(students[:NAMED]) + (" …" if len(students) > NAMED else "")
    changed = [f"{name}={_short(value)}" for name, value in changes(params).items()]
    more = [f"{len(changed) - NAMED} more"] if len(changed) > NAMED else []
    return " · ".join([head or "repro", *changed[:NAMED], *more])


def changes(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters whose value is not that of the commit's params.yaml; {} where there is none to compare with."""
    committed = yaml.safe_load(_git("show", f"{_commit()}:./params.yaml") or "{}") if _commit() else {}
    if not isinstance(committed, dict):
        return {}
    before, now = _flat(committed), _flat(params)
    return {name: value for name, value in now.items() if name in before and before[name] != value}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in values.items():
        rows |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": _as_yaml(value)}
    return rows


def _as_yaml(value: Any) -> Any:
    """Pairs, which the schema reads as tuples, as YAML has them: lists."""
    return [_as_yaml(each) for each in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _commit() -> str:
    return os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD")


@cache
def _asked(words: tuple[str, ...], folder: str) -> str:
    done = subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=folder)
    return done.stdout.strip() if done.returncode == 0 else ""


def _git(*words: str) -> str:
    return _asked(words, str(Path.cwd()))
