"""Rows of a journal, sent to MLflow: by a stage while it runs, and by `prunella sync` where that failed.

When an answer is lost, something may be sent that is there already. It is there once all the same: a metric has the
time at which it was told, and MLflow's databases keep equal ones once; parameters, tags and files replace themselves; a
run is found by the name of its journal, a student's model by its run and name, a picture by its name and time.
"""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from prunella.tracking.cached import PARENT_RUN_TAG, link_cached_runs, tag_outputs
from prunella.tracking.journal import Row

EXECUTION_TAG = "prunella.execution"
EXECUTION_DIGEST_TAG = "prunella.execution.sha256"  # of what PARENT says, which a filter cannot hold when it has quotes
JOURNAL_TAG = "prunella.journal"
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")
MAX_METRICS_PER_BATCH = 1000  # metrics sent at once; MLflow takes no more


class SendTarget(NamedTuple):
    """The target of rows: MLflow's client, the stage's run, that of the execution.

    `attachments_dir` has the files of rows.
    """

    client: Any
    run: str
    parent: str
    attachments_dir: Path

    def find_file(self, row: Row) -> Path:
        """Raises FileNotFoundError where somebody removed it."""
        path = self.attachments_dir / str(row.n) / str(row.payload["file"])
        if not path.exists():
            raise FileNotFoundError(path)
        return path


def ensure_run(client: Any, experiment: str, start: Row, journal: str) -> tuple[str, str]:
    """The run that a journal's first row describes, and that of its execution; made where they are not there yet."""
    run_spec, parent = start.payload, _ensure_parent_run(client, experiment, start)
    existing_runs = client.search_runs([experiment], f"tags.`{JOURNAL_TAG}` = '{journal}'", max_results=1)
    if not existing_runs:
        tag_outputs(client, experiment, parent, run_spec["outs"], started_before=start.at)
        tags = {PARENT_RUN_TAG: parent, JOURNAL_TAG: journal, **run_spec["tags"]}
        existing_runs = [client.create_run(experiment, start_time=start.at, run_name=run_spec["stage"], tags=tags)]
    update_parent_status(client, parent)
    return existing_runs[0].info.run_id, parent


def _ensure_parent_run(client: Any, experiment: str, start: Row) -> str:
    from mlflow.entities import Param

    parent_spec = start.payload["parent"]
    key = parent_spec["tags"][EXECUTION_DIGEST_TAG]
    existing_runs = client.search_runs([experiment], f"tags.`{EXECUTION_DIGEST_TAG}` = '{key}'", max_results=1) or [
        client.create_run(experiment, start_time=start.at, run_name=parent_spec["title"], tags=parent_spec["tags"])
    ]
    run = existing_runs[0].info.run_id
    if not existing_runs[0].data.params:
        client.log_batch(run, params=[Param(name, value) for name, value in parent_spec["params"].items()])
    return str(run)


def update_parent_status(client: Any, parent: str) -> None:
    """Give the parent the worst status of its stages, each by its newest run; its end moves with theirs."""
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`{PARENT_RUN_TAG}` = '{parent}'", order_by=["start_time ASC"])
    newest = {run.data.tags.get("stage"): run.info.status for run in runs}
    worst = min(newest.values(), key=WORST_FIRST.index, default="FINISHED")
    if worst in ("RUNNING", "SCHEDULED"):
        client.update_run(parent, status=worst)
    else:
        client.set_terminated(
            parent, worst, max((run.info.end_time for run in runs if run.info.end_time), default=None)
        )


def group_rows(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in order, those together that are sent together: up to MOST metrics, anything else alone."""
    for are_metrics, group in groupby(rows, key=lambda row: row.kind == "metrics"):
        group_members = list(group)
        batch_size = (
            max(1, MAX_METRICS_PER_BATCH // max(len(row.payload["values"]) for row in group_members))
            if are_metrics
            else 1
        )
        yield from (group_members[start : start + batch_size] for start in range(0, len(group_members), batch_size))


def send(target: SendTarget, batch: list[Row]) -> None:
    """Send one of `group_rows`. Raises what MLflow does."""
    SENDERS[batch[0].kind](target, batch)


def _send_metrics(target: SendTarget, rows: list[Row]) -> None:
    target.client.log_batch(target.run, metrics=[metric for row in rows for metric in _to_metric_entities(row)])


def _to_metric_entities(row: Row, **kwargs: str) -> list[Any]:
    from mlflow.entities import Metric

    step = row.payload.get("step", 0)
    return [Metric(name, value, row.at, step, **kwargs) for name, value in row.payload["values"].items()]


def _send_headline(target: SendTarget, rows: list[Row]) -> None:
    target.client.log_batch(target.parent, metrics=_to_metric_entities(rows[0]))


def _send_params(target: SendTarget, rows: list[Row]) -> None:
    from mlflow.entities import Param

    values = rows[0].payload["values"]
    target.client.log_batch(target.run, params=[Param(name, value) for name, value in values.items()])


def _send_tags(target: SendTarget, rows: list[Row]) -> None:
    for run in (target.run, target.parent):
        for name, value in rows[0].payload["values"].items():
            target.client.set_tag(run, name, value)


def _send_datasets(target: SendTarget, rows: list[Row]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    datasets = rows[0].payload["datasets"]
    entries = [
        DatasetInput(Dataset(dataset["path"], dataset["digest"], "dvc", dataset["source"])) for dataset in datasets
    ]
    target.client.log_inputs(target.run, entries)


def _send_logged_model(target: SendTarget, rows: list[Row]) -> None:
    """A student at one of its stages as a logged model, whose weights stay where DVC has them."""
    import mlflow

    model_spec, client = rows[0].payload, target.client
    experiment = client.get_run(target.run).info.experiment_id
    query = f"name = '{model_spec['name']}' and source_run_id = '{target.run}'"
    existing_models = client.search_logged_models([experiment], query)
    model = (
        existing_models[0]
        if existing_models
        else client.create_logged_model(
            experiment,
            name=model_spec["name"],
            source_run_id=target.run,
            tags=model_spec["tags"],
            model_type="Stable Diffusion",
        )
    )
    if str(model.status) != str(mlflow.entities.LoggedModelStatus.READY):
        client.finalize_logged_model(model.model_id, mlflow.entities.LoggedModelStatus.READY)
    if not model.metrics:
        client.log_batch(target.run, metrics=_to_metric_entities(rows[0], model_id=model.model_id))


def _send_cached_links(target: SendTarget, rows: list[Row]) -> None:
    link_cached_runs(target.client, target.parent, rows[0].payload["outs"])


def _send_image(target: SendTarget, rows: list[Row]) -> None:
    (row,) = rows
    # MLflow's scheme
    artifact_prefix = f"images/{row.payload['key'].replace('/', '~')}+step+{row.payload['step']}+timestamp+{row.at}+"
    if any(
        artifact.path.startswith(artifact_prefix) for artifact in target.client.list_artifacts(target.run, "images")
    ):
        return
    with Image.open(target.find_file(row)) as image:
        target.client.log_image(
            target.run, image, key=row.payload["key"], step=row.payload["step"], timestamp=row.at, synchronous=True
        )


def _send_artifact(target: SendTarget, rows: list[Row]) -> None:
    path = target.find_file(rows[0])
    if path.is_dir():
        target.client.log_artifacts(target.run, str(path), path.name)
    else:
        target.client.log_artifact(target.run, str(path))


def _send_end(target: SendTarget, rows: list[Row]) -> None:
    target.client.set_terminated(target.run, rows[0].payload["status"], end_time=rows[0].at)
    update_parent_status(target.client, target.parent)


SENDERS: dict[str, Callable[[SendTarget, list[Row]], None]] = {
    "metrics": _send_metrics,
    "headline": _send_headline,
    "params": _send_params,
    "tags": _send_tags,
    "inputs": _send_datasets,
    "model": _send_logged_model,
    "cached": _send_cached_links,
    "picture": _send_image,
    "artifact": _send_artifact,
    "end": _send_end,
}
