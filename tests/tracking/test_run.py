import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image
from tracked import LOCK, runs

from prunella.tracking.datasets import list_datasets
from prunella.tracking.run import (
    StageRun,
    build_runs_url,
    flatten_for_mlflow,
    get_tracking_uri,
    init_sqlite_store,
    redact_tracking_uri,
    start_stage_run,
)


def test_the_store_is_under_the_repository_unless_told(local, monkeypatch):
    assert get_tracking_uri() == f"sqlite:///{local.resolve() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert get_tracking_uri() == "http://mlflow.example:5000"


class Creator:
    """As MLflow's client, which makes its tables when it is first asked; `fails` before it is through."""

    def __init__(self, fails: bool):
        self.fails = fails

    def __call__(self, uri: str) -> "Creator":
        with Path(uri.removeprefix("sqlite:///")).open("a") as file:
            file.write("half")
        return self

    def get_experiment_by_name(self, name: str) -> None:
        if self.fails:
            raise OSError("No space left on device")


def test_our_own_store_is_whole_or_absent_and_made_once(bare, monkeypatch):
    path = bare / "mlflow.db"
    with pytest.raises(OSError, match="No space"):
        init_sqlite_store(Creator(fails=True))
    assert not path.exists()
    for _ in range(2):
        init_sqlite_store(Creator(fails=False))
        assert path.read_text() == "half" and [each.name for each in bare.iterdir()] == ["mlflow.db"]
    path.unlink()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    init_sqlite_store(Creator(fails=True))


def test_a_password_in_the_stores_address_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:SECRET@db.example/mlflow")
    assert redact_tracking_uri() == "postgresql://…@db.example/mlflow"


def test_nested_names_are_joined():
    assert flatten_for_mlflow({"a": {"b": 1, "c": {"d": 2}}, "e@f": 3}) == {"a.b": 1, "a.c.d": 2, "e.f": 3}


def test_runs_hold_what_they_are_told(local, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-heart")
    with start_stage_run("distill x", {"distill": {"steps": 3}}) as run:
        run.log_params({"steps": 3})
        run.log_metrics(2, {"train/loss": 0.5})
        run.log_image(2, "samples", Image.new("RGB", (4, 4)))
        run.log_headline({"x": {"output_error": 0.125}})
        run.log_report({"heldout": {"task": 0.25}, "name": "not a number"})
    with pytest.raises(RuntimeError, match="broken"), start_stage_run("finetune x", {}):
        raise RuntimeError("broken")
    with pytest.raises(KeyboardInterrupt), start_stage_run("benchmark", {}):
        raise KeyboardInterrupt
    found = {made.info.run_name: made for made in runs()}
    assert set(found) == {"brave-heart · distill.steps=3", "distill x", "finetune x", "benchmark"}
    parent = found["brave-heart · distill.steps=3"]
    distill = found["distill x"].data
    assert distill.params == {"steps": "3"}
    assert distill.metrics == {"train/loss": 0.5, "heldout.task": 0.25}
    assert distill.tags["dvc.experiment"] == "brave-heart" and len(distill.tags["git.commit"]) == 40
    assert distill.tags["interpreter"] == sys.executable
    assert Path(distill.tags["code"]) == ROOT / "src" / "prunella"
    assert parent.data.metrics == {"x.output_error": 0.125}
    assert parent.data.tags["error"] == found["finetune x"].data.tags["error"] == "broken"
    assert distill.tags["mlflow.user"] and distill.tags["git.dirty"] in ("true", "false")
    assert parent.info.end_time >= max(made.info.end_time for made in found.values())
    ends = {name: made.info.status for name, made in found.items()}
    assert ends == {
        "brave-heart · distill.steps=3": "FAILED",
        "distill x": "FINISHED",
        "finetune x": "FAILED",
        "benchmark": "KILLED",
    }


def test_other_parameters_have_another_parent(local):
    for steps in (1, 1, 2):
        with start_stage_run("filter", {"distill": {"steps": steps}}):
            pass
    parents = [run for run in runs() if "stage" not in run.data.tags]
    assert len(parents) == 2
    children = [run.data.tags["mlflow.parentRunId"] for run in runs() if "stage" in run.data.tags]
    assert sorted(children.count(parent.info.run_id) for parent in parents) == [1, 2]


def test_an_unreachable_store_warns_and_stops_nothing(local, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = []
    with pytest.warns(UserWarning, match=r"MLflow at http://127.0.0.1:9 cannot be reached, this stage is kept here"):  # noqa: SIM117
        with start_stage_run("distill", {}) as run:
            run.log_metrics(1, {"loss": 1.0})
            run.log_image(1, "samples", Image.new("RGB", (1, 1)))
            done.append(True)
    assert done == [True]


def test_a_store_that_fails_midway_is_warned_of_once():
    class Broken:
        def log_batch(self, *_, **__):
            raise OSError("disk full")

    run = StageRun(Broken(), "id")
    with pytest.warns(UserWarning, match="disk full"):
        run.log_metrics(1, {"loss": 1.0})
    run.log_metrics(2, {"loss": 1.0})  # silent from here on


def parent_status() -> str:
    (status,) = {run.info.status for run in runs() if "stage" not in run.data.tags}
    return status


def test_a_parent_has_the_worst_status_of_its_stages_newest_runs(local):
    for code, expected in ((143, "KILLED"), (None, "FINISHED")):
        for stage in ("filter", "distill x"):
            try:
                with start_stage_run(stage, {}):
                    assert parent_status() in ("RUNNING", "KILLED")  # the other one may have been killed
                    if code and stage == "filter":
                        sys.exit(code)
            except SystemExit:
                pass
        assert parent_status() == expected
    with pytest.raises(RuntimeError), start_stage_run("benchmark", {}):
        raise RuntimeError
    with start_stage_run("filter", {}):
        pass
    assert parent_status() == "FAILED"


KILLED = """
import os
from prunella.tracking.run import start_stage_run
with start_stage_run('distill x', {}):
    os.kill(os.getpid(), 9)
"""


def test_a_run_whose_process_was_killed_is_closed_by_the_next_stage(local):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"}
    assert subprocess.run([sys.executable, "-c", KILLED], env=environment, cwd=local, check=False).returncode == -9
    assert {run.info.status for run in runs()} == {"RUNNING"}
    with start_stage_run("filter", {}):
        assert {run.data.tags.get("stage"): run.info.status for run in runs()} == {
            "distill x": "KILLED",
            "filter": "RUNNING",
            None: "KILLED",
        }


@pytest.mark.parametrize("name", ["it's", 'it\'s "so"', "100 %"])
def test_an_experiment_of_any_name_is_logged(local, monkeypatch, name):
    monkeypatch.setenv("DVC_EXP_NAME", name)
    for stage in ("filter", "encode"):
        with start_stage_run(stage, {}):
            pass
    assert {run.data.tags["dvc.experiment"] for run in runs()} == {name}
    assert sorted(run.info.run_name for run in runs()) == sorted([name, "filter", "encode"])


@pytest.mark.parametrize("name", ["a?b", "50 %25 off", "it's"])
def test_the_store_is_in_the_folder_whatever_its_name(tmp_path, empty, name):
    (folder := tmp_path / name).mkdir()
    shutil.copy(empty, folder)
    code = "from prunella.tracking.run import start_stage_run\nwith start_stage_run('filter', {}): pass"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(folder), "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {name for (name,) in sqlite3.connect(folder / "mlflow.db").execute("select name from runs")} >= {"filter"}


def test_an_unreachable_store_costs_one_time_out_and_holds_no_lock(local, monkeypatch):
    import mlflow

    asked = []

    class Unreachable:
        def __init__(self, uri):
            asked.append(uri)

        def get_experiment_by_name(self, name):
            with (local / "work" / "mlflow.lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise OSError("timed out")

    (local / "work").mkdir()
    monkeypatch.setattr(mlflow, "MlflowClient", Unreachable)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:1")
    for said in ("timed out", "before", "before"):
        with pytest.warns(UserWarning, match=said), start_stage_run("filter", {}):
            pass
    assert asked == ["http://mlflow.example:1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:2")
    with pytest.warns(UserWarning, match="timed out"), start_stage_run("filter", {}):
        pass
    monkeypatch.setattr(os, "getpgrp", lambda: 1)  # another `dvc repro`
    with pytest.warns(UserWarning, match="timed out"), start_stage_run("filter", {}):
        pass
    assert asked[1:] == ["http://mlflow.example:2"] * 2


def test_two_stages_at_once_share_one_parent(bare):
    code = "from prunella.tracking.run import start_stage_run\nwith start_stage_run('s', {'a': 1}): pass"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=bare) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted("stage" in run.data.tags for run in runs()) == [False, True, True]


def test_without_mlflow_a_stage_runs_silently(bare, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with start_stage_run("distill", {}) as run:
        run.log_metrics(1, {"loss": 1.0})
        run.log_params({"a": 1})
    assert run.client is None
    assert not (bare / "mlflow.db").exists()


def test_a_stage_without_mlflow_tells_nobody(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "mlflow"] + ["mlflow", "mlflow.entities"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it raises ImportError
    with start_stage_run("x", {"a": 1}) as run:
        run.log_params({"a": 1})
        run.log_metrics(1, {"loss": 0.5})
        run.log_report({"n": 3})
        run.log_headline({"n": 3})
    assert run.client is None


def test_the_experiment_is_the_one_that_mlflow_is_told(local, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "ours")
    with start_stage_run("filter", {}):
        pass
    assert [each.name for each in MlflowClient(get_tracking_uri()).search_experiments() if each.name != "Default"] == [
        "ours"
    ]
    assert build_runs_url("http://h:1/") == "http://h:1/#/experiments/1/runs?workflowType=machine_learning"


def test_two_users_of_one_commit_have_a_parent_each(local, monkeypatch):
    for name in ("ada", "ben", "ada"):
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
        with start_stage_run("filter", {}):
            pass
    users = [run.data.tags["mlflow.user"] for run in runs() if "stage" not in run.data.tags]
    assert sorted(users) == ["ada", "ben"]


def test_a_figure_that_is_told_by_step_is_not_told_again_at_the_end(local):
    with start_stage_run("distill x", {}) as run:
        run.log_metrics(1, {"heldout/output": 0.5})
        run.log_report({"heldout": {"output": 0.5, "task": 0.25}, "steps": 1})
    (metrics,) = [run.data.metrics for run in runs() if "stage" in run.data.tags]
    assert metrics == {"heldout/output": 0.5, "heldout.task": 0.25, "steps": 1.0}


def test_data_sets_and_students_are_known_by_dvcs_hashes(local, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.chdir(local)
    (local / "dvc.lock").write_text(LOCK)
    with start_stage_run("distill x", {}, list_datasets(("data/latents", "models/pruned/x", "src"))):
        pass
    with start_stage_run("benchmark", {}) as run:
        run.log_headline({"teacher": {"params_m": 8.0}, "x": {"params_m": 3.5, "output_error_distilled": 0.125}})
    (distill,) = [run for run in runs() if run.data.tags.get("stage") == "distill x"]
    (read,) = distill.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("data/latents", "0123456789abcdef0123456789abcdef.dir")
    (model,) = MlflowClient(get_tracking_uri()).search_logged_models([distill.info.experiment_id])
    assert model.name == "x-distilled" and model.tags["dvc.hash"] == "77aa.dir"
    assert {each.key: each.value for each in model.metrics} == {"params_m": 3.5, "output_error": 0.125}


def test_what_came_from_dvcs_cache_is_linked_to_the_run_that_made_it(local, monkeypatch):
    monkeypatch.chdir(local)
    monkeypatch.setenv("DVC_STAGE", "encode")
    with start_stage_run("encode", {"a": 1}):
        pass
    (local / "dvc.lock").write_text(LOCK)  # as DVC does after a stage
    monkeypatch.setenv("DVC_STAGE", "distill@x")
    with start_stage_run("distill x", {"a": 1}):
        pass
    monkeypatch.setenv("DVC_STAGE", "benchmark")
    with start_stage_run("benchmark", {"a": 2}) as run:  # another execution, which ran nothing else
        run.log_headline({})
    found = {run.data.tags.get("stage"): run.info.run_id for run in runs()}
    (parent,) = [each for each in runs() if each.info.run_id == run.parent]
    assert parent.data.tags["cached.encode"] == found["encode"]
    assert f"runs/{found['encode']})" in parent.data.tags["mlflow.note.content"]


def test_the_machines_use_is_logged(local, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    with start_stage_run("distill x", {}):
        time.sleep(0.5)
    (metrics,) = [run.data.metrics for run in runs() if "stage" in run.data.tags]
    assert "system/cpu_utilization_percentage" in metrics
