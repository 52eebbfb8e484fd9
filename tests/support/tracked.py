"""What MLflow knows: its runs, and all that two executions should have in common."""

import re
from pathlib import Path
from typing import Any

from prunella.tracking.run import DEFAULT_EXPERIMENT, get_tracking_uri

OWN = ("prunella.journal", "process", "mlflow.parentRunId", "mlflow.runName")  # tags that no two runs share

# What DVC notes of the data and of a distilled student.
LOCK = """
stages:
  encode:
    cmd: sh stages/python stages/encode.py
    outs: [{path: data/latents, hash: md5, md5: 0123456789abcdef0123456789abcdef.dir}]
  distill@x:
    cmd: sh stages/python stages/distill.py
    outs: [{path: models/distilled/x, hash: md5, md5: 77aa.dir}]
"""


def runs() -> list:
    from mlflow import MlflowClient

    client = MlflowClient(get_tracking_uri())
    return client.search_runs([client.get_experiment_by_name(DEFAULT_EXPERIMENT).experiment_id])


def seen() -> list[dict[str, Any]]:
    """All that the store has of every run, without times, numbers and the place on this machine."""
    from mlflow import MlflowClient

    client = MlflowClient(get_tracking_uri())
    return sorted((_seen(client, run) for run in runs()), key=lambda run: run["name"])


def _seen(client: Any, run: Any) -> dict[str, Any]:
    number = run.info.run_id
    history = [each for name in run.data.metrics for each in client.get_metric_history(number, name)]
    asked = f"source_run_id = '{number}'"
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "metrics": sorted((each.key, each.step, each.value) for each in history),
        "tags": {name: value for name, value in run.data.tags.items() if name not in OWN},
        "files": sorted(_files(client, number)),
        "data sets": [each.dataset.name for each in run.inputs.dataset_inputs],
        "models": sorted(
            (model.name, model.status, sorted((each.key, each.value) for each in model.metrics))
            for model in client.search_logged_models([run.info.experiment_id], asked)
        ),
    }


def _files(client: Any, number: str, folder: str | None = None) -> list[str]:
    found = []
    for each in client.list_artifacts(number, folder):
        if each.is_dir:
            found += _files(client, number, each.path)
        else:
            found.append(re.sub(r"timestamp\+\d+\+[0-9a-f-]{36}", "TIME", Path(each.path).as_posix()))
    return found
