"""The notebook runs from top to bottom, and is committed as it is before it runs."""

import ast
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "first_student.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
QUICK = {"STEPS": 2, "PAIRS": 30, "SAMPLER": 2}  # in place of the first cell's numbers


def test_it_is_committed_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)


def test_numbers_to_change_are_in_a_first_cell_of_their_own():
    assert CODE[0]["metadata"]["tags"] == ["parameters"]
    names = {target.id for line in ast.parse("".join(CODE[0]["source"])).body for target in line.targets}
    assert names == {*QUICK, "STUDENT", "PROMPTS"}


@pytest.mark.slow
def test_its_cells_run_in_order_twice(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    shutil.copy2(ROOT / "data" / "scenes.yaml", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    names: dict = {}
    for _ in range(2):  # what is done is taken as it is
        for number, cell in enumerate(CODE):
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
            names |= QUICK if number == 0 else {}
    here = tmp_path / "work" / "notebook"
    assert Path.cwd() == here and sorted(os.listdir(here)) == ["data", "distilled", "pruned", "work"]
    assert names["report"]["steps"] == 2 and list(names["rows"]) == ["teacher", "pruned", "distilled"]
    assert (here / "distilled" / "sd-tiny" / "model_index.json").is_file()
