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

from prunella.tracking.cached import CHILD_OF, link_cached, note_outs
from prunella.tracking.journal import Row

PARENT = "prunella.execution"
PARENT_KEY = "prunella.execution.sha256"  # of what PARENT says, which a filter cannot hold when it has quotes
JOURNAL = "prunella.journal"
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")
MOST = 1000  # metrics sent at once; MLflow takes no more


class Place(NamedTuple):
    """Where rows go: MLflow's client, the stage's run, that of the execution; `kept` has the files of rows."""

    client: Any
    run: str
    parent: str
    kept: Path

    def file(self, row: Row) -> Path:
        """Raises FileNotFoundError where somebody removed it."""
        path = self.kept / str(row.n) / str(row.said["file"])
        if not path.exists():
            raise FileNotFoundError(path)
        return path


def begin(client: Any, experiment: str, start: Row, journal: str) -> tuple[str, str]:
    """The run that a journal's first row describes, and that of its execution; made where they are not there yet."""
    said, parent = start.said, _parent(client, experiment, start)
    there = client.search_runs([experiment], f"tags.`{JOURNAL}` = '{journal}'", max_results=1)
    if not there:
        note_outs(client, experiment, parent, said["outs"], before=start.at)
        tags = {CHILD_OF: parent, JOURNAL: journal, **said["tags"]}
        there = [client.create_run(experiment, start_time=start.at, run_name=said["stage"], tags=tags)]
    parent_status(client, parent)
    return there[0].info.run_id, parent


def _parent(client: Any, experiment: str, start: Row) -> str:
    from mlflow.entities import Param

    said = start.said["parent"]
    key = said["tags"][PARENT_KEY]
    there = client.search_runs([experiment], f"tags.`{PARENT_KEY}` = '{key}'", max_results=1) or [
        client.create_run(experiment, start_time=start.at, run_name=said["title"], tags=said["tags"])
    ]
    run = there[0].info.run_id
    if not there[0].data.params:
        client.log_batch(run, params=[Param(name, value) for name, value in said["params"].items()])
    return str(run)


def parent_status(client: Any, parent: str) -> None:
    """Give the parent the worst status of its stages, each by its newest run; its end moves with theirs."""
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`{CHILD_OF}` = '{parent}'", order_by=["start_time ASC"])
    newest = {run.data.tags.get("stage"): run.info.status for run in runs}
    worst = min(newest.values(), key=WORST_FIRST.index, default="FINISHED")
    if worst in ("RUNNING", "SCHEDULED"):
        client.update_run(parent, status=worst)
    else:
        client.set_terminated(
            parent, worst, max((run.info.end_time for run in runs if run.info.end_time), default=None)
        )


def parts(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in order, those together that are sent together: up to MOST metrics, anything else alone."""
    for metrics, some in groupby(rows, key=lambda row: row.kind == "metrics"):
        each = list(some)
        size = max(1, MOST // max(len(row.said["values"]) for row in each)) if metrics else 1
        yield from (each[start : start + size] for start in range(0, len(each), size))


def send(place: Place, part: list[Row]) -> None:
    """Send one of `parts`. Raises what MLflow does."""
    SENDS[part[0].kind](place, part)


def _metrics(place: Place, rows: list[Row]) -> None:
    place.client.log_batch(place.run, metrics=[each for row in rows for each in _entries(row)])


def _entries(row: Row, **more: str) -> list[Any]:
    from mlflow.entities import Metric

    step = row.said.get("step", 0)
    return [Metric(name, value, row.at, step, **more) for name, value in row.said["values"].items()]


def _headline(place: Place, rows: list[Row]) -> None:
    place.client.log_batch(place.parent, metrics=_entries(rows[0]))


def _params(place: Place, rows: list[Row]) -> None:
    from mlflow.entities import Param

    values = rows[0].said["values"]
    place.client.log_batch(place.run, params=[Param(name, value) for name, value in values.items()])


def _tags(place: Place, rows: list[Row]) -> None:
    for run in (place.run, place.parent):
        for name, value in rows[0].said["values"].items():
            place.client.set_tag(run, name, value)


def _inputs(place: Place, rows: list[Row]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    said = rows[0].said["datasets"]
    entries = [DatasetInput(Dataset(each["path"], each["digest"], "dvc", each["source"])) for each in said]
    place.client.log_inputs(place.run, entries)


def _model(place: Place, rows: list[Row]) -> None:
    """A student at one of its stages as a logged model, whose weights stay where DVC has them."""
    import mlflow

    said, client = rows[0].said, place.client
    experiment = client.get_run(place.run).info.experiment_id
    asked = f"name = '{said['name']}' and source_run_id = '{place.run}'"
    there = client.search_logged_models([experiment], asked)
    model = (
        there[0]
        if there
        else client.create_logged_model(
            experiment,
            name=said["name"],
            source_run_id=place.run,
            tags=said["tags"],
            model_type="Stable Diffusion",
        )
    )
    if str(model.status) != str(mlflow.entities.LoggedModelStatus.READY):
        client.finalize_logged_model(model.model_id, mlflow.entities.LoggedModelStatus.READY)
    if not model.metrics:
        client.log_batch(place.run, metrics=_entries(rows[0], model_id=model.model_id))


def _cached(place: Place, rows: list[Row]) -> None:
    link_cached(place.client, place.parent, rows[0].said["outs"])


def _picture(place: Place, rows: list[Row]) -> None:
    (row,) = rows
    named = f"images/{row.said['key'].replace('/', '~')}+step+{row.said['step']}+timestamp+{row.at}+"  # MLflow's scheme
    if any(each.path.startswith(named) for each in place.client.list_artifacts(place.run, "images")):
        return
    with Image.open(place.file(row)) as image:
        place.client.log_image(
            place.run, image, key=row.said["key"], step=row.said["step"], timestamp=row.at, synchronous=True
        )


def _artifact(place: Place, rows: list[Row]) -> None:
    path = place.file(rows[0])
    if path.is_dir():
        place.client.log_artifacts(place.run, str(path), path.name)
    else:
        place.client.log_artifact(place.run, str(path))


def _end(place: Place, rows: list[Row]) -> None:
    place.client.set_terminated(place.run, rows[0].said["status"], end_time=rows[0].at)
    parent_status(place.client, place.parent)


SENDS: dict[str, Callable[[Place, list[Row]], None]] = {
    "metrics": _metrics,
    "headline": _headline,
    "params": _params,
    "tags": _tags,
    "inputs": _inputs,
    "model": _model,
    "cached": _cached,
    "picture": _picture,
    "artifact": _artifact,
    "end": _end,
}
