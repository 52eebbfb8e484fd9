import shutil

import pytest
from commands import refused
from conftest import ROOT


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_without_a_graph_is_refused(here):
    assert "dvc.yaml" in refused("accept", "distill")


def test_an_unknown_stage_and_a_broken_parameter_file_are_said_in_a_line(here):
    shutil.copy2(ROOT / "dvc.yaml", here)
    (here / "params.yaml").write_text("students: [")
    assert "not valid YAML" in refused("accept", "distill")
    shutil.copy2(ROOT / "params.yaml", here)
    assert "did you mean 'distill'" in refused("accept", "distil")
