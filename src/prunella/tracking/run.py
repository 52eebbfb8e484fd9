"""MLflow, the only room that knows it: a run per stage, under one parent run per pipeline execution.

The store is `MLFLOW_TRACKING_URI`, else SQLite under the repository root ($DVC_ROOT, the real one even in a
temporary experiment). Nothing here ever stops a stage: what cannot be told to MLflow is warned of once, and stays in
the stage's journal, which `prunella sync` sends.

A run's status is true: a parent has the worst status of its stages, each by its newest run; runs of this machine whose
process is gone (kill -9, power) are closed as KILLED by the next stage that starts.
"""

import hashlib
import importlib.util
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from prunella.storage.files import atomic_write_text
from prunella.tracking.cached import PARENT_RUN_TAG, digest_stage_outputs
from prunella.tracking.datasets import Dataset, read_output_hashes
from prunella.tracking.journal import Journal, Row, create_journal, read_final_status
from prunella.tracking.process import is_dead, process_tags
from prunella.tracking.redact import redact
from prunella.tracking.sender import (
    EXECUTION_DIGEST_TAG,
    EXECUTION_TAG,
    JOURNAL_TAG,
    SendTarget,
    ensure_run,
    group_rows,
    send,
    update_parent_status,
)
from prunella.tracking.tags import collect_run_tags, format_execution_title, get_user_name

DEFAULT_EXPERIMENT = "prunella"  # unless MLFLOW_EXPERIMENT_NAME says another
DATABASE = "mlflow.db"
RETRY_AFTER = 3600.0  # seconds after which one execution tries a store again that it could not reach
MAX_BUFFER_SECONDS = 5.0  # that metrics wait at most, as long as more come
MAX_BUFFERED = 50  # rows of them that do not wait any longer


def repo_root() -> Path:
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def get_tracking_uri() -> str:
    """The tracking URI: MLFLOW_TRACKING_URI, else SQLite under the repository root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _make_sqlite_uri(repo_root() / DATABASE)


def _make_sqlite_uri(path: Path) -> str:
    special_chars = set("?%") & set(str(path))  # which SQLAlchemy and MLflow would take for a query or an escape
    return f"sqlite:///{os.path.relpath(path) if special_chars else path}"


def redact_tracking_uri() -> str:
    """The tracking URI as it may be printed: without a name and a password that stand in it."""
    return str(redact(get_tracking_uri()))


def set_http_timeouts(seconds: int, retries: int = 1) -> None:
    """How long MLflow waits for each answer of a server, and how often it asks again; the environment may say else."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))


def get_experiment_name() -> str:
    """The experiment that runs belong to: MLFLOW_EXPERIMENT_NAME, else "prunella"."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def build_runs_url(base_url: str) -> str:
    """The page of our runs on a server; MLflow's start page is the one for language models.

    If the store cannot be asked which number our experiment has, the address itself.
    """
    import mlflow

    set_http_timeouts(10)
    try:
        experiment = mlflow.MlflowClient(get_tracking_uri()).get_experiment_by_name(get_experiment_name())
    except Exception:  # as in `Run.flush`
        return base_url
    path = f"/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning" if experiment else ""
    return base_url.rstrip("/") + path


class StageRun:
    """Messages of a stage to MLflow: first to the journal, then to the store, for as long as that answers.

    Without a journal and a client it is silent.
    """

    def __init__(
        self,
        client: Any = None,
        run_id: str | None = None,
        parent: str | None = None,
        journal: Journal | None = None,
    ):
        self.client, self.id, self.parent = client, run_id, parent
        self.journal = journal or Journal()
        self.buffer: list[Row] = []  # what is not sent yet
        self.last_flush = 0.0  # when something last was
        self.step_metric_names: set[str] = set()  # of metrics by step

    def log_params(self, values: dict[str, Any]) -> None:
        self._record("params", {"values": stringify_params(values)})

    def log_metrics(self, step: int, values: dict[str, float]) -> None:
        """Values at a step; several steps are sent together, since sending takes longer than a small model's step."""
        self.step_metric_names |= values.keys()
        self._record("metrics", {"step": step, "values": {name: float(value) for name, value in values.items()}})

    def flush(self) -> None:
        """Send what has not been sent yet."""
        self.last_flush = time.monotonic()
        if self.client is None or self.id is None:
            return
        target = SendTarget(self.client, self.id, str(self.parent), self.journal.attachments_dir)
        try:
            for batch in list(group_rows(self.buffer)):
                send(target, batch)
                self.journal.mark_sent(batch[-1].n)
                del self.buffer[: len(batch)]
        except Exception as error:  # MLflow raises many kinds; none may stop a training
            warnings.warn(
                f"MLflow at {redact_tracking_uri()} failed, the rest of this stage "
                f"{_describe_fallback(self.journal)}: {format_error_line(error)}",
                stacklevel=3,
            )
            self.client, self.buffer = None, []

    def log_headline(self, values: dict[str, Any]) -> None:
        """The few figures to compare executions by, for the parent run; students as models; where the rest is from."""
        self._record("headline", {"values": {name: float(value) for name, value in flatten_for_mlflow(values).items()}})
        for student in values.keys() - {"teacher"}:
            for model in _iter_logged_models(student, values[student]):
                self._record("model", model)
        self._record("cached", {"outs": digest_stage_outputs()})

    def log_datasets(self, stage_datasets: list[Dataset]) -> None:
        """The data sets that the stage reads, by DVC's hashes."""
        if stage_datasets:
            entries = [each._asdict() | {"source": json.dumps({"path": each.path})} for each in stage_datasets]
            self._record("inputs", {"datasets": entries})

    def log_error(self, error: BaseException) -> None:
        """Why the run failed, in a line, for the run and its parent."""
        line = " ".join(str(error).split())[:500] or type(error).__name__
        self._record("tags", {"values": {"error": line}})

    def log_report(self, values: dict[str, Any]) -> None:
        """The numbers of a nested report, as metrics without steps, but for those that were told by step."""
        numbers = {name: value for name, value in flatten_for_mlflow(values).items() if isinstance(value, int | float)}
        self.log_metrics(
            0,
            {name: value for name, value in numbers.items() if name.replace(".", "/", 1) not in self.step_metric_names},
        )

    def log_image(self, step: int, name: str, image: Image.Image) -> None:
        payload = {"step": step, "key": name, "file": "picture.png"}
        self._record("picture", payload, save_files=lambda folder: image.save(folder / "picture.png"))

    def log_artifact(self, path: Path) -> None:
        copy_function = shutil.copy2 if path.is_file() else shutil.copytree
        self._record("artifact", {"file": path.name}, save_files=lambda folder: copy_function(path, folder / path.name))

    def get_identifiers(self) -> dict[str, str]:
        """MLflow's part of a report: the store where it is a server, this run, its parent; {} without MLflow."""
        if self.client is None:
            return {}
        identifiers = {
            "server": None if _uses_sqlite() else redact_tracking_uri(),
            "run": self.id,
            "parent run": self.parent,
        }
        return {name: value for name, value in identifiers.items() if value}

    def end(self, status: str) -> None:
        """The last that is told."""
        self._record("end", {"status": status})
        self.journal.close(complete=self.client is not None)

    def _record(self, kind: str, payload: dict[str, Any], save_files: Callable[[Path], Any] | None = None) -> None:
        if self.client is None and not self.journal.is_open:
            return
        row = self.journal.add(kind, payload if kind == "metrics" else redact(payload), save_files)
        if self.client is None or (save_files and not self.journal.is_open):
            return
        self.buffer.append(row)
        if (
            kind != "metrics"
            or len(self.buffer) >= MAX_BUFFERED
            or time.monotonic() - self.last_flush > MAX_BUFFER_SECONDS
        ):
            self.flush()


def _iter_logged_models(student: str, figures: dict[str, float]) -> Iterator[dict[str, Any]]:
    """A row for the student at each of its stages that DVC has."""
    output_hashes = read_output_hashes()
    for stage in ("pruned", "distilled", "finetuned"):
        if (path := f"models/{stage}/{student}") not in output_hashes:
            continue
        model_metrics = {
            name.removesuffix(f"_{stage}"): value for name, value in figures.items() if name.endswith(stage)
        }
        model_metrics |= {name: figures[name] for name in ("params_m", "latency_ms") if name in figures}
        yield {
            "name": f"{student}-{stage}",
            "tags": {"dvc.path": path, "dvc.hash": output_hashes[path], "mlflow.user": get_user_name()},
            "values": {name: float(value) for name, value in model_metrics.items()},
        }


def format_error_line(error: BaseException) -> str:
    """The first line of an error, without secrets; SQLAlchemy's go on with the statement."""
    return str(redact(str(error).partition("\n")[0]))


def stringify_params(values: dict[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them."""
    return {name: str(value)[:6000] for name, value in flatten_for_mlflow(values).items()}


def flatten_for_mlflow(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; only names that MLflow allows are kept as they are."""
    rows: dict[str, Any] = {}
    for name, value in values.items():
        full_name = f"{prefix}{name}".replace("@", ".")
        rows |= flatten_for_mlflow(value, f"{full_name}.") if isinstance(value, dict) else {full_name: value}
    return rows


@contextmanager
def start_stage_run(
    stage: str, all_params: dict[str, Any], input_datasets: list[Dataset] | None = None
) -> Iterator[StageRun]:
    """The run of a stage that reads these data sets, ended as FINISHED, FAILED, or KILLED (SIGTERM, Ctrl-C)."""
    run = _start_run(stage, all_params)
    run.log_datasets(input_datasets or [])
    status = "FAILED"
    try:
        with _log_system_metrics(run):
            yield run
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        run.log_error(error)
        raise
    finally:
        run.end(status)


@contextmanager
def _log_system_metrics(run: StageRun) -> Iterator[None]:
    """Use of the machine (processor, memory, disk, GPU) as metrics of the run, every ten seconds."""
    if run.client is None:
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    for logger_name in ("mlflow.system_metrics", "mlflow.utils.autologging_utils"):
        logging.getLogger(logger_name).setLevel(logging.ERROR)  # the stage itself says where a store cannot be reached
    monitor = SystemMetricsMonitor(run.id, tracking_uri=get_tracking_uri())
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def _start_run(stage: str, all_params: dict[str, Any]) -> StageRun:
    if importlib.util.find_spec("mlflow") is None:
        return StageRun()
    journal = create_journal(get_journal_dir())
    start = journal.add("start", redact(_build_run_spec(stage, all_params)))
    if _is_recently_unreachable():
        _warn_unreachable(journal, "could not be reached before")
        return StageRun(journal=journal)
    set_http_timeouts(10)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
        if not _uses_sqlite():  # whoever waits for a server waits without the lock
            mlflow.MlflowClient(get_tracking_uri()).get_experiment_by_name(get_experiment_name())
        with lock_store():
            client, experiment = _connect_under_lock()
            run, parent = ensure_run(client, experiment, start, journal.name)
        journal.mark_sent(start.n, run=run, parent=parent)
        _close_orphaned_runs(client, experiment)
        return StageRun(client, run, parent, journal)
    except Exception as error:  # as in `Run.flush`
        _warn_unreachable(journal, "cannot be reached", f": {format_error_line(error)}")
        if not _uses_sqlite():
            atomic_write_text(_unreachable_marker(), json.dumps(_identify_execution()))
        return StageRun(journal=journal)


def _warn_unreachable(journal: Journal, reason: str, details: str = "") -> None:
    warnings.warn(
        f"MLflow at {redact_tracking_uri()} {reason}, this stage {_describe_fallback(journal)}{details}", stacklevel=5
    )


def _describe_fallback(journal: Journal) -> str:
    return "is kept here and sent by `prunella sync`" if journal.is_open else "is not logged there"


def get_journal_dir() -> Path:
    return repo_root() / "work" / "tracking"


def _build_run_spec(stage: str, all_params: dict[str, Any]) -> dict[str, Any]:
    """All that it takes to make the run of a stage now or later: its own, and that of the execution.

    An execution is DVC's experiment, else a commit, the parameters and who runs them.
    """
    tags, values = collect_run_tags(), stringify_params(all_params)
    params_digest = hashlib.sha256(repr(sorted(flatten_for_mlflow(all_params).items())).encode()).hexdigest()[:12]
    execution_key = tags.get("dvc.experiment") or f"repro {tags.get('git.commit', 'no commit')[:8]} {params_digest}"
    key_digest = hashlib.sha256(f"{execution_key} {get_user_name()}".encode()).hexdigest()
    return {
        "stage": stage,
        "tags": {"stage": stage, **tags, **process_tags()},
        "parent": {
            "title": format_execution_title(all_params),
            "tags": {EXECUTION_TAG: execution_key, EXECUTION_DIGEST_TAG: key_digest, **tags},
            "params": values,
        },
        "experiment": get_experiment_name(),
        "store": redact_tracking_uri(),
        "outs": digest_stage_outputs(),
    }


def connect_store() -> tuple[Any, str]:
    """A client of the store and the number of our experiment in it, both made where they are not there yet."""
    with lock_store():
        return _connect_under_lock()


def _connect_under_lock() -> tuple[Any, str]:
    import mlflow

    init_sqlite_store(mlflow.MlflowClient)
    client = mlflow.MlflowClient(get_tracking_uri())
    return client, ensure_experiment(client, get_experiment_name())


def init_sqlite_store(client_class: Callable[[str], Any]) -> None:
    """Create our own store of SQLite, whole or not at all: MLflow never mends tables that are half made."""
    path, tmp_path = repo_root() / DATABASE, repo_root() / f"{DATABASE}.half"
    if "MLFLOW_TRACKING_URI" in os.environ or path.is_file():
        return
    tmp_path.unlink(missing_ok=True)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # its tables are nobody's news
    client_class(_make_sqlite_uri(tmp_path)).get_experiment_by_name(DEFAULT_EXPERIMENT)
    tmp_path.replace(path)


def _uses_sqlite() -> bool:
    return get_tracking_uri().startswith("sqlite:")


def _unreachable_marker() -> Path:
    return repo_root() / "work" / "mlflow.dead.json"


def _identify_execution() -> dict[str, Any]:
    """The store and the process group, which `dvc repro` shares with its stages."""
    return {"store": redact_tracking_uri(), "group": os.getpgrp(), "boot": process_tags()["boot"]}


def _is_recently_unreachable() -> bool:
    """Whether an earlier stage of this execution could not reach the store, less than AGAIN seconds ago."""
    try:
        is_recent = time.time() - _unreachable_marker().stat().st_mtime < RETRY_AFTER
        return is_recent and json.loads(_unreachable_marker().read_text(encoding="utf-8")) == _identify_execution()
    except (OSError, ValueError):
        return False


def _close_orphaned_runs(client: Any, experiment: str) -> None:
    """End the RUNNING runs of this machine whose process is gone."""
    query = f"attributes.status = 'RUNNING' and tags.host = '{process_tags()['host']}'"
    orphaned_runs = [run for run in client.search_runs([experiment], query) if is_dead(run.data.tags)]
    for run in orphaned_runs:
        status = (
            read_final_status(get_journal_dir(), run.data.tags.get(JOURNAL_TAG, "")) or "KILLED"
        )  # it may have outlived the store
        client.set_terminated(run.info.run_id, status)
    for parent in {run.data.tags[PARENT_RUN_TAG] for run in orphaned_runs if PARENT_RUN_TAG in run.data.tags}:
        update_parent_status(client, parent)


@contextmanager
def lock_store() -> Iterator[None]:
    """Two stages at once must not both create the store, the experiment or the parent."""
    import fcntl

    folder = repo_root() / "work"
    folder.mkdir(exist_ok=True)
    with (folder / "mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_experiment(client: Any, name: str) -> str:
    """The number of an experiment, which is made where there is none."""
    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    return str(client.create_experiment(name, (repo_root() / "mlruns").as_uri() if _uses_sqlite() else None))
