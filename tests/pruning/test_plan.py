import pytest

from prunella import STUDENTS, read_plan
from prunella.errors import UserError
from prunella.params import validate_config
from prunella.pruning.plan import Plan

SMALL = {
    "name": "mine",
    "title": "Mine",
    "family": "sd",
    "down": [[0], [0], [0], [0]],
    "mid": "keep",
    "up": [[0, 2], [0, 2], [0, 2], [0, 2]],
    "features": "block-bk",
    "source": "here",
}


def refused(**changes) -> str:
    with pytest.raises(UserError) as caught:
        validate_config(Plan, SMALL | changes, "plan.yaml")
    return str(caught.value)


def test_the_catalogue_holds_the_students():
    sd = {"sd-small", "sd-tiny", "bk-sdm-base", "bk-sdm-small", "bk-sdm-tiny"}
    assert set(STUDENTS) == sd | {"ssd-1b", "segmind-vega", "koala-1b", "koala-700m"}
    assert {name for name, plan in STUDENTS.items() if plan.family == "sd"} == sd
    assert all(plan.name == name for name, plan in STUDENTS.items())
    assert STUDENTS["sd-tiny"].down == [[0], [0], [0], None]
    assert (STUDENTS["sd-small"].num_kept_stages, STUDENTS["sd-small"].num_removed_stages) == (4, 0)
    assert (STUDENTS["sd-tiny"].num_kept_stages, STUDENTS["sd-tiny"].num_removed_stages) == (3, 1)


def test_unknown_students_are_named_with_their_neighbour():
    with pytest.raises(UserError, match="no student is called 'sd-teeny'; did you mean 'sd-tiny'"):
        STUDENTS["sd-teeny"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"up": [[0, 2]]}, "down has 4 stages and up has 1; a teacher of family 'sd' has 4 each way"),
        ({"down": [[0], [3], [0], [0]]}, "down stage 1 keeps pair 3, but a teacher of family 'sd' has pairs 0 to 1"),
        ({"layers": {"up": {0: [[0], None]}}}, "up stage 0, pair 0, keeps layer 0, but"),
        ({"layers": {"down": {4: [[0]]}}}, "layers.down: stage 4 is not among the kept stages"),
        ({"layers": {"down": {1: [[0], [0]]}}}, "stage 1 keeps 1 pairs, but layers of 2 are listed"),
        ({"layers": {"down": {1: [[0, 0]]}}}, "down stage 1, pair 0, keeps layers [0, 0], which must rise"),
        (
            {"layers": {"down": {3: []}}},
            "layers.down: stage 3 of a teacher of family 'sd' has no attention to be left out",
        ),
        ({"layers": {"mid": [1]}}, "the mid block keeps layer 1, but a teacher of family 'sd' has layers 0 to 0"),
        ({"layers": {"mid": [0]}, "mid": "drop"}, "layers.mid: a mid block that is 'drop' has no transformer layers"),
        ({"down": [[0], [0], [0], None]}, "down stage 3 and up stage 0 share skips"),
        ({"up": [[0], [0, 2], [0, 2], [0, 2]]}, "up stage 0 must keep 2 pairs, one more than down stage 3, not 1"),
        ({"down": [[0], None, [0], [0]], "up": [[0, 2], [0, 2], None, [0, 2]]}, "only the deepest stages"),
        ({"down": [None] * 4, "up": [None] * 4}, "only the deepest stages"),
        ({"up": [[2, 0], [0, 2], [0, 2], [0, 2]]}, "keeps pairs [2, 0], which must rise"),
        ({"up": [[2, 2], [0, 2], [0, 2], [0, 2]]}, "keeps pairs [2, 2], which must rise"),
        ({"down": [[], [0], [0], [0]]}, "at least 1 item"),
        ({"mid": "half"}, "'keep', 'resnet' or 'drop', got 'half'"),
        ({"features": "block"}, "features"),
        ({"uo": []}, "no key of the file is called 'uo'; did you mean 'up'?"),
    ],
)
def test_plans_that_make_no_unet_are_refused(changes, said):
    assert said in refused(**changes)


def test_a_layer_that_sdxl_lacks_is_named():
    layers = {"down": {2: [[0, 12]]}}
    with pytest.raises(UserError, match=r"down stage 2, pair 0, keeps layer 12, but .* 'sdxl' has layers 0 to 9 there"):
        validate_config(Plan, STUDENTS["koala-700m"].model_dump() | {"layers": layers}, "plan.yaml")
    with pytest.raises(UserError, match=r"down stage 0, pair 0, keeps layer 0, but .* has no layers there"):
        validate_config(Plan, STUDENTS["koala-700m"].model_dump() | {"layers": {"down": {0: [[0]]}}}, "plan.yaml")


def test_what_is_not_named_keeps_all_layers():
    plan = STUDENTS["ssd-1b"]
    assert plan.list_kept_layers("down", 0) == [[], []]
    assert plan.list_kept_layers("down", 1) == [[0, 1], [0, 1]]
    assert plan.list_kept_layers("up", 0) == [[0, 1, 2, 6], [0, 1, 2, 6], list(range(10))]
    assert (plan.mid_layers, STUDENTS["koala-1b"].mid_layers) == ([], list(range(6)))


def test_a_plan_file_that_is_no_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("down: [")
    with pytest.raises(UserError, match=r"mine.yaml: not valid YAML"):
        read_plan(tmp_path / "mine.yaml")


def test_a_plan_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such plan"):
        read_plan(tmp_path / "mine.yaml")


def test_a_stage_without_attention_has_no_layers():
    plan = validate_config(Plan, SMALL | {"layers": {"down": {1: []}, "up": {2: []}}}, "plan.yaml")
    assert plan.list_kept_layers("down", 1) == [[]] and plan.list_kept_layers("up", 2) == [[], []]
    assert plan.list_kept_layers("down", 0) == [[0]] and plan.list_kept_layers("up", 1) == [[0], [0]]
