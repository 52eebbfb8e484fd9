"""A store that goes away at some call, and `prunella sync` after it is back."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from tracked import LOCK, runs, seen

from prunella.cli.main import main
from prunella.tracking import run as tracking
from prunella.tracking.datasets import list_datasets
from prunella.tracking.run import StageRun, start_stage_run

CALLS = 34  # that `told` makes of MLflow's client


class Server:
    """MLflow's client, whose calls from number `first` on fail: that one before or `after` it has had its effect."""

    def __init__(self, real, first: int | None = None, after: bool = False):
        self.real, self.first, self.after, self.calls = real, first, after, 0

    def __call__(self, uri: str) -> "Server.Client":
        return Server.Client(self, self.real(uri))

    def call(self, method, *given, **named):
        self.calls += 1
        if self.first is None or self.calls < self.first:
            return method(*given, **named)
        if self.after and self.calls == self.first:
            method(*given, **named)
        raise OSError("the server is away")

    class Client:
        def __init__(self, server: "Server", real):
            self.server, self.real = server, real

        def __getattr__(self, name):
            method = getattr(self.real, name)
            return lambda *given, **named: self.server.call(method, *given, **named)


@pytest.fixture
def repository(local, monkeypatch):
    """A folder with a lock file, in which stages run and have their store; the machine's use is not looked at."""
    monkeypatch.chdir(local)
    monkeypatch.setattr(tracking, "_log_system_metrics", lambda run: nullcontext())
    (local / "dvc.lock").write_text(LOCK)
    (local / "page.html").write_text("<p>a</p>")
    (local / "images").mkdir()
    (local / "images" / "a.txt").write_text("a")
    return local


@pytest.fixture
def server(monkeypatch):
    import mlflow

    it = Server(mlflow.MlflowClient)
    monkeypatch.setattr(mlflow, "MlflowClient", it)
    return it


def told() -> None:
    """A stage that tells everything that can be told."""
    with start_stage_run("benchmark", {"a": {"b": 1}}, list_datasets(("data/latents",))) as run:
        run.log_params({"steps": 3})
        for step in range(1, 4):
            run.log_metrics(step, {"train/loss": 1 / step, "train/norm": float("nan") if step == 2 else 2.0})
        run.flush()
        run.log_image(2, "samples", Image.new("RGB", (4, 4)))
        run.log_headline({"teacher": {"params_m": 8.0}, "x": {"params_m": 3.5, "output_error_distilled": 0.125}})
        run.log_artifact(Path("page.html"))
        run.log_artifact(Path("images"))
        run.log_report({"heldout": {"task": 0.25}})


def comparable(runs: list[dict]) -> str:
    return json.dumps(runs, indent=1)  # NaN is not equal to itself


def journals(folder: Path) -> list[Path]:
    return sorted((folder / "work" / "tracking").glob("*"))


def expected(folder: Path, server: Server) -> str:
    """What the store has of a stage in peace; then it is emptied."""
    before = (folder / "mlflow.db").read_bytes()
    told()
    whole = comparable(seen())
    (folder / "mlflow.db").write_bytes(before)
    server.calls = 0
    return whole


@pytest.mark.parametrize(("first", "after"), [(4, True), (21, True), (CALLS, False)])
def test_what_a_lost_server_lacks_is_sent_once(repository, server, first, after, capsys):
    assert_sent_once(repository, server, first, after, expected(repository, server))
    assert capsys.readouterr().out.splitlines()[-1].endswith("nothing to send")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_at_whatever_call_the_server_is_lost_nothing_is_lost_or_there_twice(repository, server, after):
    empty, whole = (repository / "mlflow.db").read_bytes(), expected(repository, server)
    for first in range(1, CALLS + 1):
        (repository / "mlflow.db").write_bytes(empty)
        assert_sent_once(repository, server, first, after, whole)


def assert_sent_once(folder: Path, server: Server, first: int, after: bool, whole: str) -> None:
    server.first, server.after = first, after
    with pytest.warns(UserWarning, match="prunella sync.*the server is away"):
        told()
    assert server.calls == first  # asked no more
    assert journals(folder)
    server.first = None
    main(["sync"])
    assert comparable(seen()) == whole
    assert journals(folder) == []
    main(["sync"])
    assert comparable(seen()) == whole
    server.calls = 0


def test_in_peace_a_stage_makes_as_many_calls_as_the_test_lets_fail_and_leaves_nothing(repository, server):
    told()
    assert server.calls == CALLS
    assert journals(repository) == []


@pytest.mark.parametrize("first", [9])
def test_a_sync_that_is_cut_short_goes_on(repository, server, first):
    whole = expected(repository, server)
    server.first = 1
    with pytest.warns(UserWarning, match="the server is away"):
        told()
    server.calls, server.first, server.after = 0, first, True
    with pytest.raises(SystemExit, match=r"does not answer, so 1 runs are not sent.*the server is away"):
        main(["sync"])
    server.first = None
    main(["sync"])
    assert comparable(seen()) == whole


def test_a_run_that_could_not_be_started_is_made_with_its_own_times(repository, server, capsys):
    server.first = 1
    for stage in ("encode", "distill x"):
        with pytest.warns(UserWarning, match="the server is away"), start_stage_run(stage, {"a": 1}) as run:
            run.log_metrics(1, {"train/loss": 0.5})
    starts = [int(path.stem.split("-")[0]) for path in journals(repository)]
    server.first = None
    main(["sync"])
    made = {run.info.run_name: run for run in runs()}
    assert [made[name].info.start_time for name in ("encode", "distill x")] == pytest.approx(starts, abs=50)
    (parent,) = [run for run in made.values() if "stage" not in run.data.tags]
    assert parent.info.start_time == made["encode"].info.start_time and parent.info.status == "FINISHED"
    assert parent.info.end_time == made["distill x"].info.end_time
    assert parent.data.params == {"a": "1"}
    assert made["encode"].info.start_time <= made["encode"].info.end_time <= made["distill x"].info.start_time
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("encode, begun 20") and first.endswith(": 1 created, 1 metric, 1 status")
    assert second.startswith("distill x, begun 20")
    assert total.endswith(", of 2 runs: 2 created, 2 metrics, 2 statuses")


def test_a_stage_that_outlived_the_server_is_not_taken_for_killed(repository, server, monkeypatch):
    with pytest.warns(UserWarning, match="the server is away"), start_stage_run("encode", {}) as run:
        server.first = 1
        run.log_params({"a": 1})
    server.first = None
    monkeypatch.setattr(tracking, "is_dead", lambda tags: tags["stage"] == "encode")
    with start_stage_run("distill x", {}):
        assert {run.info.run_name: run.info.status for run in runs()}["encode"] == "FINISHED"


KILLED = """
import os
from prunella.tracking.run import start_stage_run
with start_stage_run('distill x', {'a': 1}) as run:
    run.flush()
    for step in range(1, 8):
        run.log_metrics(step, {'train/loss': 1 / step})
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_stage_had_not_sent_yet_is_sent(repository, capsys):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, cwd=repository, check=False)
    assert done.returncode == -9
    (path,) = journals(repository)
    with path.open("a") as file:
        file.write('{"n": 99, "at": 1, "ki')  # as a power cut leaves it
    main(["sync"])
    assert "distill x" in capsys.readouterr().out
    (run,) = [each for each in seen() if each["name"] == "distill x"]
    assert [step for name, step, _ in run["metrics"] if name == "train/loss"] == [1, 2, 3, 4, 5, 6, 7]
    assert {each["status"] for each in seen()} == {"KILLED"}
    assert journals(repository) == []


def test_what_cannot_be_sent_is_left_or_named(repository, server, empty, capsys, monkeypatch):
    with start_stage_run("filter", {}):
        main(["sync"])
        assert "its stage is still running" in capsys.readouterr().out
    server.first = 1
    with pytest.warns(UserWarning, match="the server is away"), start_stage_run("encode", {}) as run:
        run.log_image(1, "no: such key", Image.new("RGB", (4, 4)))
        run.log_artifact(Path("page.html"))
        run.log_params({"a": 1})
    server.first = None
    (kept,) = (repository / "work" / "tracking").glob("*/3/page.html")
    kept.unlink()
    shutil.copy(empty, repository / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{repository / 'other.db'}")
    main(["sync"])
    assert f"left: it is for sqlite:///{repository}/mlflow.db" in capsys.readouterr().out
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    main(["sync"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1 created, 1 parameter, 1 status")
    assert lines[1].startswith("  not sent: picture: The `key` parameter may only contain")
    assert lines[2].startswith("  not sent: artifact: ") and lines[2].endswith("3/page.html")
    assert journals(repository) == []
    (repository / "work" / "tracking" / "1-2.jsonl").write_text('{"n": 1, "at"')
    main(["sync"])
    assert "1-2.jsonl: nothing; left: its first line is damaged" in capsys.readouterr().out


def test_a_run_deleted_in_mlflow_is_not_brought_back(repository, server, capsys):
    from mlflow import MlflowClient

    with pytest.warns(UserWarning, match="the server is away"), start_stage_run("encode", {}) as run:
        server.first, number = 1, run.id
        run.log_params({"a": 1})
    server.first = None
    MlflowClient(tracking.get_tracking_uri()).delete_run(number)
    main(["sync"])
    assert f"its run {number} was deleted in MLflow; remove {journals(repository)[0]}" in capsys.readouterr().out


class Full:
    def write(self, text: str) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


def test_a_journal_that_cannot_be_written_stops_nothing(repository):
    with pytest.warns(UserWarning, match="cannot be written to.*No space left"):  # noqa: SIM117
        with start_stage_run("encode", {}) as run:
            run.journal.file.close()
            run.journal.file = Full()
            run.log_metrics(1, {"train/loss": 0.5})
            run.log_image(1, "samples", Image.new("RGB", (4, 4)))  # for which there is no room
            run.log_params({"a": 1})  # silent from here on
    (made,) = [run for run in runs() if "stage" in run.data.tags]
    assert made.data.metrics == {"train/loss": 0.5} and made.data.params == {"a": "1"}
    (repository / "work" / "tracking").rename(repository / "moved")
    (repository / "work" / "tracking").write_text("in the way")
    with pytest.warns(UserWarning, match="File exists"), start_stage_run("filter", {}):
        pass
    assert StageRun().journal.is_open is False
