"""MLflow, the only room that knows it: a run per stage, under one parent run per pipeline execution.

The store is `MLFLOW_TRACKING_URI`, else SQLite under the repository root ($DVC_ROOT, the real one even in a
temporary experiment). Nothing here ever stops a stage: what cannot be told to MLflow is warned of once, and then
left.

A run's status is true: a parent has the worst status of its stages, each by its newest run; runs of this machine whose
process is gone (kill -9, power) are closed as KILLED by the next stage that starts.
"""

import hashlib
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from prunella.files import atomic_write_text
from prunella.tracking.cached import link_cached, note_outs
from prunella.tracking.datasets import Dataset, hashes
from prunella.tracking.origin import origin_tags, title, user
from prunella.tracking.process import is_gone, process_tags

EXPERIMENT = "prunella"  # unless MLFLOW_EXPERIMENT_NAME says another
DATABASE = "mlflow.db"
PARENT = "prunella.execution"
PARENT_KEY = "prunella.execution.sha256"  # of what PARENT says, which a filter cannot hold when it has quotes
CHILD_OF = "mlflow.parentRunId"
WORST_FIRST = ("FAILED", "KILLED", "RUNNING", "SCHEDULED", "FINISHED")
AGAIN = 3600.0  # seconds after which one execution tries a store again that it could not reach
SECONDS = 5.0  # that metrics wait at most, as long as more come
TOGETHER, MOST = 500, 1000  # metrics told at once; MLflow takes a thousand


def root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def store() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, else SQLite under the repository root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _sqlite(root() / DATABASE)


def _sqlite(path: Path) -> str:
    odd = set("?%") & set(str(path))  # which SQLAlchemy and MLflow would take for a query or an escape
    return f"sqlite:///{os.path.relpath(path) if odd else path}"


def shown_store() -> str:
    """The tracking URI as it may be printed: without a name and a password that stand in it."""
    return re.sub(r"//[^/@]*@", "//…@", store())


def experiment_name() -> str:
    """The experiment that runs belong to: MLFLOW_EXPERIMENT_NAME, else "prunella"."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def runs_page(address: str) -> str:
    """The page of our runs on a server; MLflow's start page is the one for language models.

    Where the store cannot be asked which number our experiment has, the address itself.
    """
    import mlflow

    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        found = mlflow.MlflowClient(store()).get_experiment_by_name(experiment_name())
    except Exception:  # as in `Run._try`
        return address
    page = f"/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning" if found else ""
    return address.rstrip("/") + page


class Run:
    """An MLflow run that a stage tells things; without a client it is silent. Also a `journal.Mirror`."""

    def __init__(self, client: Any = None, run_id: str | None = None, parent: str | None = None):
        self.client, self.id, self.parent = client, run_id, parent
        self.waiting: list[Any] = []  # metrics not yet told
        self.told = 0.0  # when some last were
        self.names: set[str] = set()  # of metrics by step

    def _try(self, what: Callable[[], Any]) -> None:
        if self.client is None:
            return
        try:
            what()
        except Exception as error:  # MLflow raises many kinds; none may stop a training
            said = str(error).partition("\n")[0]  # SQLAlchemy's go on with the statement
            warnings.warn(
                f"MLflow at {shown_store()} failed, the rest of this stage is not logged there: {said}", stacklevel=3
            )
            self.client = None

    def params(self, values: dict[str, Any]) -> None:
        if self.client is None:  # as where MLflow is not installed
            return
        from mlflow.entities import Param

        entries = [Param(name, str(value)[:6000]) for name, value in flat(values).items()]
        self._try(lambda: self.client.log_batch(self.id, params=entries))

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values at a step; several steps are told together, since telling takes longer than a small model's step."""
        self.waiting += self._entries(step, values)
        self.names |= values.keys()
        if len(self.waiting) >= TOGETHER or time.monotonic() - self.told > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Tell what has not been told yet."""
        entries, self.waiting, self.told = self.waiting, [], time.monotonic()
        for start in range(0, len(entries), MOST):
            self._log_batch(entries[start : start + MOST])

    def _log_batch(self, entries: list[Any]) -> None:
        self._try(lambda: self.client.log_batch(self.id, metrics=entries))

    def headline(self, values: dict[str, Any]) -> None:
        """The few figures to compare executions by, told to the parent run."""
        entries = self._entries(0, flat(values))
        self._try(lambda: self.client.log_batch(self.parent, metrics=entries))
        for student in values.keys() - {"teacher"}:
            self._try(partial(self._students, student, values[student]))
        if self.parent:
            self._try(partial(link_cached, self.client, self.parent))

    def _students(self, student: str, figures: dict[str, float]) -> None:
        """The student at each of its stages as a logged model, whose weights stay where DVC has them."""
        import mlflow

        known = hashes()
        experiment = self.client.get_run(self.id).info.experiment_id
        for stage in ("pruned", "distilled", "finetuned"):
            if (path := f"models/{stage}/{student}") not in known:
                continue
            tags = {"dvc.path": path, "dvc.hash": known[path], "mlflow.user": user()}
            model = self.client.create_logged_model(
                experiment, name=f"{student}-{stage}", source_run_id=self.id, tags=tags, model_type="Stable Diffusion"
            )
            self.client.finalize_logged_model(model.model_id, mlflow.entities.LoggedModelStatus.READY)
            mine = {name.removesuffix(f"_{stage}"): value for name, value in figures.items() if name.endswith(stage)}
            mine |= {name: figures[name] for name in ("params_m", "latency_ms") if name in figures}
            entries = [
                mlflow.entities.Metric(name, value, int(time.time() * 1000), 0, model_id=model.model_id)
                for name, value in mine.items()
            ]
            self.client.log_batch(self.id, metrics=entries)

    def datasets(self, known: list[Dataset]) -> None:
        """The data sets that the stage reads, by DVC's hashes."""
        if self.client is None or not known:
            return
        from mlflow.entities import Dataset as Entry
        from mlflow.entities import DatasetInput

        inputs = [DatasetInput(Entry(each.path, each.digest, "dvc", json.dumps({"path": each.path}))) for each in known]
        self._try(lambda: self.client.log_inputs(self.id, inputs))

    def failed(self, error: BaseException) -> None:
        """Why the run failed, in a line, for the run and its parent."""
        said = " ".join(str(error).split())[:500] or type(error).__name__
        for run in (self.id, self.parent):
            self._try(partial(self._tag, run, "error", said))

    def _tag(self, run: str | None, key: str, value: str) -> None:
        self.client.set_tag(run, key, value)

    def _entries(self, step: int, values: dict[str, float]) -> list:
        if self.client is None:
            return []
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        return [Metric(name, float(value), now, step) for name, value in values.items()]

    def report(self, values: dict[str, Any]) -> None:
        """The numbers of a nested report, as metrics without steps, but for those that were told by step."""
        numbers = {name: value for name, value in flat(values).items() if isinstance(value, int | float)}
        self.metrics(0, {name: value for name, value in numbers.items() if name.replace(".", "/", 1) not in self.names})

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._try(lambda: self.client.log_image(self.id, image, key=name, step=step))

    def named(self) -> dict[str, str]:
        """What a report names of MLflow: the store where it is a server, this run, its parent; {} without MLflow."""
        if self.client is None:
            return {}
        known = {"server": None if _local() else store(), "run": self.id, "parent run": self.parent}
        return {name: value for name, value in known.items() if value}

    def artifact(self, path: Path) -> None:
        self._try(
            lambda: (
                self.client.log_artifact(self.id, str(path))
                if path.is_file()
                else self.client.log_artifacts(self.id, str(path), path.name)
            )
        )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; only names that MLflow allows are kept as they are."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        whole = f"{prefix}{name}".replace("@", ".")
        rows |= flat(value, f"{whole}.") if isinstance(value, dict) else {whole: value}
    return rows


@contextmanager
def stage_run(stage: str, all_params: dict[str, Any], reads: list[Dataset] | None = None) -> Iterator[Run]:
    """The run of a stage that reads these data sets, ended as FINISHED, FAILED, or KILLED (SIGTERM, Ctrl-C)."""
    run = _start(stage, all_params)
    run.datasets(reads or [])
    status = "FAILED"
    try:
        with _machine(run):
            yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        run.failed(error)
        raise
    finally:
        run.flush()
        run._try(lambda: run.client.set_terminated(run.id, status))
        run._try(lambda: _parent_status(run.client, run.parent))


@contextmanager
def _machine(run: Run) -> Iterator[None]:
    """Use of the machine (processor, memory, disk, GPU) as metrics of the run, every ten seconds."""
    if run.client is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    for room in ("mlflow.system_metrics", "mlflow.utils.autologging_utils"):
        logging.getLogger(room).setLevel(logging.ERROR)  # the stage itself says where a store cannot be reached
    monitor = SystemMetricsMonitor(run.id, tracking_uri=store())
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _start(stage: str, all_params: dict[str, Any]) -> Run:
    if _known_dead():
        warnings.warn(
            f"MLflow at {shown_store()} could not be reached before; this stage is not logged there", stacklevel=4
        )
        return Run()
    try:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
    except ImportError:
        return Run()
    try:
        if not _local():  # whoever waits for a server waits without the lock
            mlflow.MlflowClient(store()).get_experiment_by_name(experiment_name())
        with _lock():
            client, experiment = _opened()
            parent = _parent(client, experiment, all_params)
        _close_dead(client, experiment)
        note_outs(client, experiment, parent)
        tags = {CHILD_OF: parent, "stage": stage, **origin_tags(), **process_tags()}
        run = Run(client, client.create_run(experiment, run_name=stage, tags=tags).info.run_id, parent)
        _parent_status(client, parent)
        return run
    except Exception as error:  # as above
        said = str(error).partition("\n")[0]
        warnings.warn(
            f"MLflow at {shown_store()} cannot be reached, this stage is not logged there: {said}", stacklevel=4
        )
        if not _local():
            atomic_write_text(_dead(), json.dumps(_execution()))
        return Run()


def opened() -> tuple[Any, str]:
    """A client of the store and the number of our experiment in it, both made where they are not there yet."""
    with _lock():
        return _opened()


def _opened() -> tuple[Any, str]:
    import mlflow

    _make_store(mlflow.MlflowClient)
    client = mlflow.MlflowClient(store())
    return client, _experiment(client)


def _make_store(client: Callable[[str], Any]) -> None:
    """Create our own store of SQLite, whole or not at all: MLflow never mends tables that are half made."""
    path, half = root() / DATABASE, root() / f"{DATABASE}.half"
    if "MLFLOW_TRACKING_URI" in os.environ or path.is_file():
        return
    half.unlink(missing_ok=True)
    client(_sqlite(half)).get_experiment_by_name(EXPERIMENT)
    half.replace(path)


def _local() -> bool:
    return store().startswith("sqlite:")


def _dead() -> Path:
    return root() / "work" / "mlflow.dead.json"


def _execution() -> dict[str, Any]:
    """The store and the process group, which `dvc repro` shares with its stages."""
    return {"store": store(), "group": os.getpgrp(), "boot": process_tags()["boot"]}


def _known_dead() -> bool:
    """Whether an earlier stage of this execution could not reach the store, less than AGAIN seconds ago."""
    try:
        recent = time.time() - _dead().stat().st_mtime < AGAIN
        return recent and json.loads(_dead().read_text(encoding="utf-8")) == _execution()
    except (OSError, ValueError):
        return False


def _close_dead(client: Any, experiment: str) -> None:
    """End the RUNNING runs of this machine whose process is gone."""
    asked = f"attributes.status = 'RUNNING' and tags.host = '{process_tags()['host']}'"
    gone = [run for run in client.search_runs([experiment], asked) if is_gone(run.data.tags)]
    for run in gone:
        client.set_terminated(run.info.run_id, "KILLED")
    for parent in {run.data.tags[CHILD_OF] for run in gone if CHILD_OF in run.data.tags}:
        _parent_status(client, parent)


def _parent_status(client: Any, parent: str | None) -> None:
    """Give the parent the worst status of its stages, each by its newest run; its end moves with theirs."""
    experiment = client.get_run(parent).info.experiment_id
    newest = {}
    for run in client.search_runs([experiment], f"tags.`{CHILD_OF}` = '{parent}'", order_by=["start_time ASC"]):
        newest[run.data.tags.get("stage")] = run.info.status
    worst = min(newest.values(), key=WORST_FIRST.index, default="FINISHED")
    if worst in ("RUNNING", "SCHEDULED"):
        client.update_run(parent, status=worst)
    else:
        client.set_terminated(parent, worst)


@contextmanager
def _lock() -> Iterator[None]:
    """Two stages at once must not both create the store, the experiment or the parent."""
    import fcntl

    folder = root() / "work"
    folder.mkdir(exist_ok=True)
    with (folder / "mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(experiment_name())
    if found:
        return found.experiment_id
    return client.create_experiment(experiment_name(), (root() / "mlruns").as_uri() if _local() else None)


def _parent(client: Any, experiment: str, all_params: dict[str, Any]) -> str:
    """The run of this execution: of DVC's experiment, else of the commit, the parameters and who runs them."""
    tags = origin_tags()
    digest = hashlib.sha256(repr(sorted(flat(all_params).items())).encode()).hexdigest()[:12]
    key = tags.get("dvc.experiment") or f"repro {tags.get('git.commit', 'no commit')[:8]} {digest}"
    sum = hashlib.sha256(f"{key} {user()}".encode()).hexdigest()
    found = client.search_runs([experiment], f"tags.`{PARENT_KEY}` = '{sum}'", max_results=1)
    if found:
        return found[0].info.run_id
    run = client.create_run(experiment, run_name=title(all_params), tags={PARENT: key, PARENT_KEY: sum, **tags})
    Run(client, run.info.run_id).params(all_params)
    return run.info.run_id
