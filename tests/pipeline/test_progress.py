import os
import sys

import pytest
import yaml
from conftest import ROOT

from prunella.pipeline.input_guard import load_yaml_or_none
from prunella.pipeline.progress import format_stage_position, sort_stages
from prunella.pipeline.stage import run_stage

STAGES = {
    "report": {"deps": ["models", "notes.txt"]},  # reads what both trainings make, and is written first
    "old": {"frozen": True, "outs": ["notes.txt"]},
    "train": {"foreach": "${students}", "do": {"deps": ["data/all/one.bin"], "outs": ["models/${item}"]}},
    "encode": {"deps": ["raw"], "outs": [{"data/all": {"cache": False}}]},
    "weigh": {"matrix": {"of": ["x", "y"], "by": [3]}, "deps": ["models/b"]},
}
PARAMS = {"students": ["b", "a"]}


def test_a_stage_comes_after_those_that_make_what_it_reads_and_frozen_ones_do_not_count():
    assert sort_stages(STAGES, PARAMS) == ["encode", "train@b", "train@a", "report", "weigh@x-3", "weigh@y-3"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within DVC
def test_the_order_is_that_of_dvc(monkeypatch):
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    monkeypatch.chdir(ROOT)
    theirs = [stage.addressing for stage in plan_repro(Repo(ROOT).index.graph) if not stage.frozen]
    assert (
        sort_stages(load_yaml_or_none(ROOT / "dvc.yaml")["stages"], load_yaml_or_none(ROOT / "params.yaml")) == theirs
    )


def test_what_cannot_be_told_is_left_out(tmp_path):
    graph = tmp_path / "dvc.yaml"
    assert format_stage_position("encode", PARAMS, graph) == ""
    graph.write_text(yaml.safe_dump({"stages": STAGES}))
    assert format_stage_position("encode", PARAMS, graph) == "stage 1 of 6"
    assert format_stage_position("prune", PARAMS, graph) == format_stage_position("encode", {}, graph) == ""
    graph.write_text("stages: [")
    assert format_stage_position("encode", PARAMS, graph) == ""


def test_a_stage_that_dvc_has_started_says_where_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    with run_stage("encode", "", []):
        pass
    assert "stage 1" not in capsys.readouterr().out  # by hand
    monkeypatch.setitem(os.environ, "DVC_STAGE", "encode")
    monkeypatch.setattr("prunella.pipeline.stage.exit_with_parent", lambda: None)  # no `dvc` is there to be watched
    with run_stage("encode", "", []):
        pass
    assert capsys.readouterr().out.startswith("stage 1 of 6\n")
