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
from prunella.tracking.cached import CHILD_OF, outs
from prunella.tracking.datasets import Dataset, hashes
from prunella.tracking.journal import Journal, Row, begun, ended
from prunella.tracking.process import is_gone, process_tags
from prunella.tracking.redact import hidden
from prunella.tracking.sender import JOURNAL, PARENT, PARENT_KEY, Place, begin, parent_status, parts, send
from prunella.tracking.tags import origin_tags, title, user

EXPERIMENT = "prunella"  # unless MLFLOW_EXPERIMENT_NAME says another
DATABASE = "mlflow.db"
AGAIN = 3600.0  # seconds after which one execution tries a store again that it could not reach
SECONDS = 5.0  # that metrics wait at most, as long as more come
TOGETHER = 50  # rows of them that do not wait any longer


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
    return str(hidden(store()))


def wait_at_most(seconds: int, retries: int = 1) -> None:
    """How long MLflow waits for each answer of a server, and how often it asks again; the environment may say else."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(seconds))


def experiment_name() -> str:
    """The experiment that runs belong to: MLFLOW_EXPERIMENT_NAME, else "prunella"."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def runs_page(address: str) -> str:
    """The page of our runs on a server; MLflow's start page is the one for language models.

    Where the store cannot be asked which number our experiment has, the address itself.
    """
    import mlflow

    wait_at_most(10)
    try:
        found = mlflow.MlflowClient(store()).get_experiment_by_name(experiment_name())
    except Exception:  # as in `Run.flush`
        return address
    page = f"/#/experiments/{found.experiment_id}/runs?workflowType=machine_learning" if found else ""
    return address.rstrip("/") + page


class Run:
    """What a stage tells MLflow: first to the journal, then to the store, for as long as that answers.

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
        self.waiting: list[Row] = []  # what is not sent yet
        self.told = 0.0  # when something last was
        self.names: set[str] = set()  # of metrics by step

    def params(self, values: dict[str, Any]) -> None:
        self._tell("params", {"values": texts(values)})

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values at a step; several steps are sent together, since sending takes longer than a small model's step."""
        self.names |= values.keys()
        self._tell("metrics", {"step": step, "values": {name: float(value) for name, value in values.items()}})

    def flush(self) -> None:
        """Send what has not been sent yet."""
        self.told = time.monotonic()
        if self.client is None or self.id is None:
            return
        place = Place(self.client, self.id, str(self.parent), self.journal.kept)
        try:
            for part in list(parts(self.waiting)):
                send(place, part)
                self.journal.sent(part[-1].n)
                del self.waiting[: len(part)]
        except Exception as error:  # MLflow raises many kinds; none may stop a training
            warnings.warn(
                f"MLflow at {shown_store()} failed, the rest of this stage {_fate(self.journal)}: {said(error)}",
                stacklevel=3,
            )
            self.client, self.waiting = None, []

    def headline(self, values: dict[str, Any]) -> None:
        """The few figures to compare executions by, for the parent run; students as models; where the rest is from."""
        self._tell("headline", {"values": {name: float(value) for name, value in flat(values).items()}})
        for student in values.keys() - {"teacher"}:
            for model in _models(student, values[student]):
                self._tell("model", model)
        self._tell("cached", {"outs": outs()})

    def datasets(self, known: list[Dataset]) -> None:
        """The data sets that the stage reads, by DVC's hashes."""
        if known:
            entries = [each._asdict() | {"source": json.dumps({"path": each.path})} for each in known]
            self._tell("inputs", {"datasets": entries})

    def failed(self, error: BaseException) -> None:
        """Why the run failed, in a line, for the run and its parent."""
        line = " ".join(str(error).split())[:500] or type(error).__name__
        self._tell("tags", {"values": {"error": line}})

    def report(self, values: dict[str, Any]) -> None:
        """The numbers of a nested report, as metrics without steps, but for those that were told by step."""
        numbers = {name: value for name, value in flat(values).items() if isinstance(value, int | float)}
        self.metrics(0, {name: value for name, value in numbers.items() if name.replace(".", "/", 1) not in self.names})

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        about = {"step": step, "key": name, "file": "picture.png"}
        self._tell("picture", about, keep=lambda folder: image.save(folder / "picture.png"))

    def artifact(self, path: Path) -> None:
        copy = shutil.copy2 if path.is_file() else shutil.copytree
        self._tell("artifact", {"file": path.name}, keep=lambda folder: copy(path, folder / path.name))

    def named(self) -> dict[str, str]:
        """What a report names of MLflow: the store where it is a server, this run, its parent; {} without MLflow."""
        if self.client is None:
            return {}
        known = {"server": None if _local() else shown_store(), "run": self.id, "parent run": self.parent}
        return {name: value for name, value in known.items() if value}

    def end(self, status: str) -> None:
        """The last that is told."""
        self._tell("end", {"status": status})
        self.journal.close(whole=self.client is not None)

    def _tell(self, kind: str, what: dict[str, Any], keep: Callable[[Path], Any] | None = None) -> None:
        if self.client is None and not self.journal.open:
            return
        row = self.journal.add(kind, what if kind == "metrics" else hidden(what), keep)
        if self.client is None or (keep and not self.journal.open):
            return
        self.waiting.append(row)
        if kind != "metrics" or len(self.waiting) >= TOGETHER or time.monotonic() - self.told > SECONDS:
            self.flush()


def _models(student: str, figures: dict[str, float]) -> Iterator[dict[str, Any]]:
    """A row for the student at each of its stages that DVC has."""
    known = hashes()
    for stage in ("pruned", "distilled", "finetuned"):
        if (path := f"models/{stage}/{student}") not in known:
            continue
        mine = {name.removesuffix(f"_{stage}"): value for name, value in figures.items() if name.endswith(stage)}
        mine |= {name: figures[name] for name in ("params_m", "latency_ms") if name in figures}
        yield {
            "name": f"{student}-{stage}",
            "tags": {"dvc.path": path, "dvc.hash": known[path], "mlflow.user": user()},
            "values": {name: float(value) for name, value in mine.items()},
        }


def said(error: BaseException) -> str:
    """The first line of an error, without secrets; SQLAlchemy's go on with the statement."""
    return str(hidden(str(error).partition("\n")[0]))


def texts(values: dict[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them."""
    return {name: str(value)[:6000] for name, value in flat(values).items()}


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
        run.end(status)


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
    if importlib.util.find_spec("mlflow") is None:
        return Run()
    journal = begun(journal_folder())
    start = journal.add("start", hidden(_described(stage, all_params)))
    if _known_dead():
        _away(journal, "could not be reached before")
        return Run(journal=journal)
    wait_at_most(10)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
        if not _local():  # whoever waits for a server waits without the lock
            mlflow.MlflowClient(store()).get_experiment_by_name(experiment_name())
        with store_lock():
            client, experiment = _opened()
            run, parent = begin(client, experiment, start, journal.name)
        journal.sent(start.n, run=run, parent=parent)
        _close_dead(client, experiment)
        return Run(client, run, parent, journal)
    except Exception as error:  # as in `Run.flush`
        _away(journal, "cannot be reached", f": {said(error)}")
        if not _local():
            atomic_write_text(_dead(), json.dumps(_execution()))
        return Run(journal=journal)


def _away(journal: Journal, why: str, more: str = "") -> None:
    warnings.warn(f"MLflow at {shown_store()} {why}, this stage {_fate(journal)}{more}", stacklevel=5)


def _fate(journal: Journal) -> str:
    return "is kept here and sent by `prunella sync`" if journal.open else "is not logged there"


def journal_folder() -> Path:
    return root() / "work" / "tracking"


def _described(stage: str, all_params: dict[str, Any]) -> dict[str, Any]:
    """All that it takes to make the run of a stage now or later: its own, and that of the execution.

    An execution is DVC's experiment, else a commit, the parameters and who runs them.
    """
    tags, values = origin_tags(), texts(all_params)
    digest = hashlib.sha256(repr(sorted(flat(all_params).items())).encode()).hexdigest()[:12]
    key = tags.get("dvc.experiment") or f"repro {tags.get('git.commit', 'no commit')[:8]} {digest}"
    sum = hashlib.sha256(f"{key} {user()}".encode()).hexdigest()
    return {
        "stage": stage,
        "tags": {"stage": stage, **tags, **process_tags()},
        "parent": {"title": title(all_params), "tags": {PARENT: key, PARENT_KEY: sum, **tags}, "params": values},
        "experiment": experiment_name(),
        "store": shown_store(),
        "outs": outs(),
    }


def opened() -> tuple[Any, str]:
    """A client of the store and the number of our experiment in it, both made where they are not there yet."""
    with store_lock():
        return _opened()


def _opened() -> tuple[Any, str]:
    import mlflow

    make_store(mlflow.MlflowClient)
    client = mlflow.MlflowClient(store())
    return client, experiment_number(client, experiment_name())


def make_store(client: Callable[[str], Any]) -> None:
    """Create our own store of SQLite, whole or not at all: MLflow never mends tables that are half made."""
    path, half = root() / DATABASE, root() / f"{DATABASE}.half"
    if "MLFLOW_TRACKING_URI" in os.environ or path.is_file():
        return
    half.unlink(missing_ok=True)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # its tables are nobody's news
    client(_sqlite(half)).get_experiment_by_name(EXPERIMENT)
    half.replace(path)


def _local() -> bool:
    return store().startswith("sqlite:")


def _dead() -> Path:
    return root() / "work" / "mlflow.dead.json"


def _execution() -> dict[str, Any]:
    """The store and the process group, which `dvc repro` shares with its stages."""
    return {"store": shown_store(), "group": os.getpgrp(), "boot": process_tags()["boot"]}


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
        status = ended(journal_folder(), run.data.tags.get(JOURNAL, "")) or "KILLED"  # it may have outlived the store
        client.set_terminated(run.info.run_id, status)
    for parent in {run.data.tags[CHILD_OF] for run in gone if CHILD_OF in run.data.tags}:
        parent_status(client, parent)


@contextmanager
def store_lock() -> Iterator[None]:
    """Two stages at once must not both create the store, the experiment or the parent."""
    import fcntl

    folder = root() / "work"
    folder.mkdir(exist_ok=True)
    with (folder / "mlflow.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def experiment_number(client: Any, name: str) -> str:
    """The number of an experiment, which is made where there is none."""
    if found := client.get_experiment_by_name(name):
        return str(found.experiment_id)
    return str(client.create_experiment(name, (root() / "mlruns").as_uri() if _local() else None))
