import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

from prunella.tracking.mlflow import EXPERIMENT, Run, flat, stage_run, store


@pytest.fixture
def local(tmp_path, monkeypatch):
    """A store of the test's own, as a stage in $DVC_ROOT would use."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def runs() -> list:
    from mlflow import MlflowClient

    client = MlflowClient(store())
    return client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id])


def test_the_store_is_under_the_repository_unless_told(local, monkeypatch):
    assert store() == f"sqlite:///{local.resolve() / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert store() == "http://mlflow.example:5000"


def test_nested_names_are_joined():
    assert flat({"a": {"b": 1, "c": {"d": 2}}, "e@f": 3}) == {"a.b": 1, "a.c.d": 2, "e.f": 3}


def test_runs_hold_what_they_are_told(local, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-heart")
    with stage_run("distill x", {"distill": {"steps": 3}}) as run:
        run.params({"steps": 3})
        run.metrics(2, {"train/loss": 0.5})
        run.picture(2, "samples", Image.new("RGB", (4, 4)))
        run.headline({"x": {"output_error": 0.125}})
        run.report({"heldout": {"task": 0.25}, "name": "not a number"})
    with pytest.raises(RuntimeError, match="broken"), stage_run("finetune x", {}):
        raise RuntimeError("broken")
    with pytest.raises(KeyboardInterrupt), stage_run("benchmark", {}):
        raise KeyboardInterrupt
    found = {made.info.run_name: made for made in runs()}
    assert set(found) == {"brave-heart", "distill x", "finetune x", "benchmark"}
    distill = found["distill x"].data
    assert distill.params == {"steps": "3"}
    assert distill.metrics == {"train/loss": 0.5, "heldout.task": 0.25}
    assert distill.tags["dvc.experiment"] == "brave-heart" and len(distill.tags["git.commit"]) == 40
    assert distill.tags["interpreter"] == sys.executable
    assert Path(distill.tags["code"]) == ROOT / "src" / "prunella"
    assert found["brave-heart"].data.metrics == {"x.output_error": 0.125}
    assert found["brave-heart"].info.end_time >= max(made.info.end_time for made in found.values())
    ends = {name: made.info.status for name, made in found.items()}
    assert ends == {"brave-heart": "FINISHED", "distill x": "FINISHED", "finetune x": "FAILED", "benchmark": "KILLED"}


def test_other_parameters_have_another_parent(local):
    for steps in (1, 1, 2):
        with stage_run("filter", {"distill": {"steps": steps}}):
            pass
    parents = [run for run in runs() if "stage" not in run.data.tags]
    assert len(parents) == 2
    children = [run.data.tags["mlflow.parentRunId"] for run in runs() if "stage" in run.data.tags]
    assert sorted(children.count(parent.info.run_id) for parent in parents) == [1, 2]


def test_an_unreachable_store_warns_and_stops_nothing(local, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = []
    with pytest.warns(UserWarning, match=r"MLflow at http://127.0.0.1:9 cannot be reached, this stage is not logged"):  # noqa: SIM117
        with stage_run("distill", {}) as run:
            run.metrics(1, {"loss": 1.0})
            run.picture(1, "samples", Image.new("RGB", (1, 1)))
            done.append(True)
    assert done == [True]


def test_a_store_that_fails_midway_is_warned_of_once():
    class Broken:
        def log_batch(self, *_, **__):
            raise OSError("disk full")

    run = Run(Broken(), "id")
    with pytest.warns(UserWarning, match="disk full"):
        run.metrics(1, {"loss": 1.0})
    run.metrics(2, {"loss": 1.0})  # silent from here on


def test_two_stages_at_once_share_one_parent(local):
    code = "from prunella.tracking.mlflow import stage_run\nwith stage_run('s', {'a': 1}): pass"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "ignore"}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=local) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted("stage" in run.data.tags for run in runs()) == [False, True, True]


def test_without_mlflow_a_stage_runs_silently(local, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with stage_run("distill", {}) as run:
        run.metrics(1, {"loss": 1.0})
        run.params({"a": 1})
    assert run.client is None
    assert not (local / "mlflow.db").exists()
