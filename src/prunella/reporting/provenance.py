"""The origin of a report: date, commit, DVC's experiment, MLflow's runs, versions."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("prunella", "dvc", "mlflow")


def collect_provenance(mlflow: dict[str, Any]) -> dict[str, Any]:
    """{"date", "commit", "changed", "experiment", "mlflow", "versions"}; None for what is not known.

    `mlflow` names the runs. In a DVC experiment the commit is the one that it started from.
    """
    commit = os.environ.get("DVC_EXP_BASELINE_REV") or _run_git_or_empty("rev-parse", "HEAD")
    # Of a stage under DVC its own outs may be half there: only what git tracks, and not reports.
    changed = _run_git_or_empty("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports", ":!dvc.lock")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit or None,
        "changed": bool(changed),
        "experiment": os.environ.get("DVC_EXP_NAME"),
        "mlflow": mlflow,
        "versions": {"python": platform.python_version()}
        | {name: installed_version for name in PACKAGES if (installed_version := _find_package_version(name))},
    }


def _run_git_or_empty(*arguments: str) -> str:
    """Facts from git; "" outside of a repository, or without git."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _find_package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
