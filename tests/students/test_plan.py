import pytest

from prunella import STUDENTS, read_plan
from prunella.errors import UserError
from prunella.params import check
from prunella.students.plan import Plan

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
        check(Plan, SMALL | changes, "plan.yaml")
    return str(caught.value)


def test_the_catalogue_holds_the_students():
    assert list(STUDENTS) == ["sd-small", "sd-tiny"]
    assert STUDENTS["sd-tiny"].down == [[0], [0], [0], None]
    assert (STUDENTS["sd-small"].kept, STUDENTS["sd-small"].removed) == (4, 0)
    assert (STUDENTS["sd-tiny"].kept, STUDENTS["sd-tiny"].removed) == (3, 1)


def test_unknown_students_are_named_with_their_neighbour():
    with pytest.raises(UserError, match="no student is called 'sd-teeny'; did you mean 'sd-tiny'"):
        STUDENTS["sd-teeny"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"up": [[0, 2]]}, "down has 4 stages and up has 1"),
        ({"down": [[0], [0], [0], None]}, "down stage 3 and up stage 0 share skips"),
        ({"up": [[0], [0, 2], [0, 2], [0, 2]]}, "up stage 0 must keep 2 pairs, one more than down stage 3, not 1"),
        ({"down": [[0], None, [0], [0]], "up": [[0, 2], [0, 2], None, [0, 2]]}, "only the deepest stages"),
        ({"down": [None] * 4, "up": [None] * 4}, "only the deepest stages"),
        ({"up": [[2, 0], [0, 2], [0, 2], [0, 2]]}, "pairs [2, 0] must rise"),
        ({"up": [[2, 2], [0, 2], [0, 2], [0, 2]]}, "pairs [2, 2] must rise"),
        ({"down": [[], [0], [0], [0]]}, "at least 1 item"),
        ({"mid": "half"}, "'keep' or 'drop', got 'half'"),
        ({"features": "block"}, "features"),
        ({"uo": []}, "no key of the file is called 'uo'; did you mean 'up'?"),
    ],
)
def test_plans_that_make_no_unet_are_refused(changes, said):
    assert said in refused(**changes)


def test_a_plan_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such plan"):
        read_plan(tmp_path / "mine.yaml")
