"""A real MLflow server that is killed in the middle of a training, comes back, and is sent what it missed."""

import json
import math
import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, toy_params
from inprocess import commands
from servers import QUIET, Server, postgresql, running
from stagefolder import stage_folder

STEPS = 120
WAIT = 300.0  # seconds


@contextmanager
def database(kind: str, folder: Path):
    if kind == "postgresql":
        with postgresql() as address:
            yield address
    else:
        yield f"sqlite:///{folder / 'server.db'}"


def repository(folder: Path, teacher: Path, pictures: Path, latents: Path, pruned: Path) -> Path:
    """A folder in which the distill stage can run, for STEPS steps."""
    content = toy_params(teacher, pictures)
    content["distill"] |= {"steps": STEPS, "evaluate_every": 50}
    content["watch"] |= {"checkpoint_every": 50, "image_every": 60}
    stage_folder(folder, content, teacher, latents, pruned)
    (folder / "models" / "plans").symlink_to(ROOT / "src" / "prunella" / "pruning" / "catalogue")
    return folder


def environment(folder: Path, server: Server) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_"))}
    ours |= QUIET | {"DVC_ROOT": str(folder), "OMP_NUM_THREADS": "1", "PRUNELLA_PYTHON": sys.executable}
    return ours | {"PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": server.uri}


def sync(folder: Path, server: Server) -> str:
    words = [sys.executable, "-m", "prunella", "sync"]
    done = subprocess.run(
        words, cwd=folder, env=environment(folder, server), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def written(folder: Path) -> list[dict]:
    """The rows of the training's own log."""
    (log,) = folder.glob("work/distill/*/metrics.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def wait_for(what, process: subprocess.Popen, printed: Path):
    until = time.monotonic() + WAIT
    while not (found := what()):
        assert process.poll() is None and time.monotonic() < until, printed.read_text()
        time.sleep(0.1)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_server_killed_in_the_middle_of_a_training_has_all_of_it_once_in_the_end(
    kind, teacher, pictures, latents, pruned_tiny, tmp_path
):
    from mlflow import MlflowClient

    folder = repository(tmp_path / "repository", teacher, pictures, latents, pruned_tiny)
    stages, printed = commands(["sd-tiny"]), tmp_path / "printed"
    with database(kind, tmp_path) as address, running(address, tmp_path) as server, printed.open("w") as out:
        client = MlflowClient(server.uri)
        given = {"cwd": folder, "env": environment(folder, server), "stdout": out, "stderr": out}
        training = subprocess.Popen(stages["distill@sd-tiny"], **given)

        def logged():
            experiment = client.get_experiment_by_name("prunella")
            found = client.search_runs([experiment.experiment_id]) if experiment else []
            return [run for run in found if "train/loss" in run.data.metrics]

        wait_for(logged, training, printed)
        server.kill()
        assert training.poll() is None and len(written(folder)) < STEPS, "it was through before the server was killed"
        assert training.wait(WAIT) == 0, printed.read_text()
        # One that cannot even be begun.
        pruning = subprocess.Popen([*stages["prune@sd-tiny"], "--out", "models/again/sd-tiny"], **given)
        assert pruning.wait(WAIT) == 0, printed.read_text()
        assert "is kept here and sent by `prunella sync`" in printed.read_text()
        rows = written(folder)
        assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
        server.start()
        said = sync(folder, server)
        assert (
            "prune sd-tiny, begun" in said and "distill sd-tiny, begun" in said and ", of 2 runs: 1 created, " in said
        )
        first = everything(client)
        assert_whole(client, rows)
        assert sync(folder, server).endswith("nothing to send\n")
        assert everything(client) == first
        assert list((folder / "work" / "tracking").iterdir()) == []


def everything(client) -> str:
    """All runs with all metrics, as text."""
    experiment = client.get_experiment_by_name("prunella").experiment_id
    rows = []
    for run in client.search_runs([experiment]):
        histories = [client.get_metric_history(run.info.run_id, name) for name in sorted(run.data.metrics)]
        values = [(each.key, each.step, each.timestamp, each.value) for history in histories for each in history]
        files = sorted(each.path for each in client.list_artifacts(run.info.run_id, "images"))
        rows.append([run.info.run_id, run.info.status, sorted(run.data.tags.items()), values, files])
    return json.dumps(sorted(rows), indent=1)


def assert_whole(client, rows: list[dict]) -> None:
    """The server has each value of the training's log, and its pictures, once; all runs are FINISHED."""
    experiment = client.get_experiment_by_name("prunella").experiment_id
    runs = {run.data.tags.get("stage"): run for run in client.search_runs([experiment])}
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ["distill sd-tiny", "prune sd-tiny", None], "FINISHED"
    )
    distill = runs["distill sd-tiny"]
    expected = {
        (f"{row['split']}/{name}", row["step"]): value
        for row in rows
        for name, value in row.items()
        if name not in ("step", "split")
    }
    names = {name for name, _ in expected}
    history = [each for name in names for each in client.get_metric_history(distill.info.run_id, name)]
    assert set(Counter((each.key, each.step) for each in history).values()) == {1}
    found = {(each.key, each.step): each.value for each in history}
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[key], expected[key], rel_tol=1e-12) for key in found)
    assert distill.info.start_time < runs["prune sd-tiny"].info.start_time
    assert distill.data.params["steps"] == str(STEPS) and "images_per_second" in distill.data.metrics
    images = [each.path for each in client.list_artifacts(distill.info.run_id, "images")]
    assert sorted(path.split("+")[2] for path in images if path.endswith(".png")) == ["0", "120", "60"]
    assert [each.path for each in client.list_artifacts(distill.info.run_id)] == ["images", "sd-tiny.json"]
