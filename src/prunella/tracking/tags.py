"""Tags of a run: the commit, whether files differ from it, the user, and what parameters differ from the committed."""

import getpass
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

MAX_TITLE_ENTRIES = 3  # changed parameters in a run's name
MAX_VALUE_CHARS = 24  # characters of a value there


def collect_run_tags() -> dict[str, str]:
    """Tags of a run: DVC's experiment, commit (in an experiment the one it started from), user, interpreter, code."""
    commit = _get_base_commit()
    tags = {
        "git.commit": commit,
        "git.dirty": str(bool(_query_git("status", "--porcelain", "--untracked-files=no"))).lower() if commit else "",
        "dvc.experiment": os.environ.get("DVC_EXP_NAME", ""),
        "dvc.stage": os.environ.get("DVC_STAGE", "").rpartition(":")[2],
        "interpreter": sys.executable,
        "code": str(Path(__file__).parents[1]),
        # What MLflow's pages show in the columns "Source" and "Created by".
        "mlflow.user": get_user_name(),
        "mlflow.source.name": "prunella",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": commit,
    }
    return {name: value for name, value in tags.items() if value}


def get_user_name() -> str:
    """The user of this run, by MLFLOW_TRACKING_USERNAME or the login; "" where neither says."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return ""


def format_execution_title(params: dict[str, Any]) -> str:
    """The identity of an execution: DVC's experiment or the students, and the parameters that were changed.

    "sd-tiny · distill.feature_weight=1.0", compared with params.yaml of the commit that it started from.
    """
    students = params.get("students", [])
    prefix = os.environ.get("DVC_EXP_NAME") or ", ".join(students[:MAX_TITLE_ENTRIES]) + (
        " …" if len(students) > MAX_TITLE_ENTRIES else ""
    )
    changed = [f"{name}={_shorten_value(value)}" for name, value in find_changed_params(params).items()]
    suffix = [f"{len(changed) - MAX_TITLE_ENTRIES} more"] if len(changed) > MAX_TITLE_ENTRIES else []
    return " · ".join([prefix or "repro", *changed[:MAX_TITLE_ENTRIES], *suffix])


def find_changed_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters whose value is not that of the commit's params.yaml; {} where there is none to compare with."""
    committed = (
        yaml.safe_load(_query_git("show", f"{_get_base_commit()}:./params.yaml") or "{}") if _get_base_commit() else {}
    )
    if not isinstance(committed, dict):
        return {}
    before, now = _flatten_params(committed), _flatten_params(params)
    return {name: value for name, value in now.items() if name in before and before[name] != value}


def _flatten_params(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in values.items():
        rows |= (
            _flatten_params(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": _tuples_to_lists(value)}
        )
    return rows


def _tuples_to_lists(value: Any) -> Any:
    """Pairs, which the schema reads as tuples, as YAML has them: lists."""
    return [_tuples_to_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _shorten_value(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[: MAX_VALUE_CHARS - 1]}…"


def _get_base_commit() -> str:
    return os.environ.get("DVC_EXP_BASELINE_REV") or _query_git("rev-parse", "HEAD")


@cache
def _query_git_cached(arguments: tuple[str, ...], folder: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, cwd=folder)
    return result.stdout.strip() if result.returncode == 0 else ""


def _query_git(*arguments: str) -> str:
    return _query_git_cached(arguments, str(Path.cwd()))
