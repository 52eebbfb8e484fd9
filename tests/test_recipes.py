"""Every recipe is a whole, valid parameter file whose students fit together."""

import pytest
import yaml
from conftest import ROOT

from prunella import STUDENTS
from prunella.params import read_params

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_the_shipped_defaults_are_the_committed_parameters():
    assert (ROOT / "src" / "prunella" / "defaults.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_of_one_family(path):
    params = read_params(path)
    assert len({STUDENTS[name].family for name in params.students}) == 1
    assert f"cp recipes/{path.name} params.yaml" in path.read_text()
    assert (ROOT / params.teacher.path).exists()  # a dependency of the graph even where the Hub is asked


def test_every_student_has_a_recipe():
    assert {name for path in RECIPES for name in read_params(path).students} == set(STUDENTS)


def test_published_hyperparameters():
    # As in the models' cards and repositories; batches are what a step sees in all.
    expected = {
        "sd-small": (100_000, 128, 1e-4, 0.5),
        "sd-tiny": (125_000, 128, 1e-4, 0.5),
        "ssd-1b": (251_000, 128, 1e-5, 0.5),
        "vega": (540_000, 128, 1e-5, 0.5),
        "bk-sdm": (50_000, 256, 5e-5, 1.0),
    }
    for name, figures in expected.items():
        distill = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())["distill"]
        batch = distill["batch_size"] * distill["accumulation"]
        assert (distill["steps"], batch, distill["learning_rate"], distill["feature_weight"]) == figures
