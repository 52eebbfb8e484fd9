"""Recipes: overlays on the defaults, and the whole files that they make."""

import pytest
import yaml
from conftest import ROOT

from prunella import STUDENTS
from prunella.errors import UserError
from prunella.params import Params, read_params
from prunella.params.recipes import DEFAULTS, list_recipes, load_recipe, merge_recipe

DEFAULT = yaml.safe_load(DEFAULTS.read_text())


def leaves(content: dict, *path: str) -> dict[tuple[str, ...], object]:
    found = {}
    for key, value in content.items():
        found |= leaves(value, *path, key) if isinstance(value, dict) and value else {(*path, key): value}
    return found


def whole(name: str) -> str:
    return merge_recipe(load_recipe(name), DEFAULTS.read_text())


@pytest.fixture
def read(tmp_path):
    """A function from a recipe's name to its parameters, checked."""

    def params(name: str) -> Params:
        path = tmp_path / f"{name}.yaml"
        path.write_text(whole(name))
        return read_params(path)

    return params


def test_the_shipped_defaults_are_the_committed_parameters():
    assert DEFAULTS.read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_values_are_put_in_and_the_comments_of_both_are_kept():
    defaults = """\
# Head.

seed: 0   # of all
names: [a, "b"]           # a list
part:                     # a section
  text: "x # y"
  deep:
    steps: 100
    other: {}             # a mapping
"""
    recipe = """\
# The recipe.
names: [c]
part:                     # published
  text: "p # q"           # ours
  deep:
    steps: 1.0e+3         # the card
"""
    assert merge_recipe(recipe, defaults) == (
        """\
# The recipe.
#
# Head.

seed: 0   # of all
names: [c]                  # a list
part:                       # published | a section
  text: "p # q"             # ours
  deep:
    steps: 1.0e+3           # the card
    other: {}             # a mapping
"""
    )


def test_a_key_that_the_defaults_lack_is_named():
    with pytest.raises(UserError, match=r"part\.stpes"):
        merge_recipe("part:\n  stpes: 3\n", "part:\n  steps: 1\n")


def test_an_unknown_recipe_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="ssd1b") as caught:
        load_recipe("ssd1b")
    assert all(name in str(caught.value) for name in list_recipes())
    with pytest.raises(UserError):
        load_recipe("../defaults")


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_valid_and_of_one_family(name, read):
    params = read(name)
    assert len({STUDENTS[student].family for student in params.students}) == 1
    assert f"prunella recipe {name} --out params.yaml" in load_recipe(name)
    assert (ROOT / params.teacher.path).exists()  # a dependency of the graph even where the Hub is asked


@pytest.mark.parametrize("name", list_recipes())
def test_the_whole_file_holds_the_recipe_and_else_the_defaults(name):
    own, default = leaves(yaml.safe_load(load_recipe(name))), leaves(DEFAULT)
    # A section of entries is empty by default.
    kept = {path: value for path, value in default.items() if not any(each[: len(path)] == path for each in own)}
    assert leaves(yaml.safe_load(whole(name))) == kept | own
    assert "docs/data.md" in whole(name) and load_recipe(name).splitlines()[0] in whole(name)


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_states_only_what_differs_or_was_published(name):
    own, default = leaves(yaml.safe_load(load_recipe(name))), leaves(DEFAULT)
    lines = load_recipe(name).splitlines()
    for path, value in own.items():
        comments = [line.partition("#")[2] for line in lines if line.strip().startswith(f"{path[-1]}: ")]
        assert value != default.get(path) or any("published" in text or "card" in text for text in comments), path


def test_every_student_has_a_recipe(read):
    assert {student for name in list_recipes() for student in read(name).students} == set(STUDENTS)


def test_published_hyperparameters(read):
    # As in the models' cards and repositories; batches are what a step sees in all.
    expected = {
        "sd-small": (100_000, 128, 1e-4, 0.5, 0.5),
        "sd-tiny": (125_000, 128, 1e-4, 0.5, 0.5),
        "ssd-1b": (251_000, 128, 1e-5, 0.5, 0.5),
        "vega": (540_000, 128, 1e-5, 0.5, 0.5),
        "bk-sdm": (50_000, 256, 5e-5, 1.0, 1.0),
    }
    for name, figures in expected.items():
        it = read(name).distill
        batch = it.batch_size * it.gradient_accumulation_steps
        assert (it.steps, batch, it.learning_rate, it.output_weight, it.feature_weight) == figures


def test_entries_take_the_place_of_an_empty_section():
    defaults = "sets: {}    # entries\npart:\n  entries: {}   # others\n  steps: 1\n"
    recipe = """\
sets:
  one:
    size: 3                 # ours
    deep: {a: [1, 2]}

# A remark.
part:
  entries:
    two: {b: 1}
  steps: 9
"""
    assert merge_recipe(recipe, defaults) == (
        """\
sets:
  one:
    size: 3                 # ours
    deep: {a: [1, 2]}
part:
  entries:
    two: {b: 1}
  steps: 9
"""
    )
