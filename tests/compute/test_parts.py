"""Parts of a stage's work: their numbers, and what a folder says of itself."""

import pytest

from prunella.compute.parts import Range, parse_range
from prunella.errors import UserError


def test_a_range_is_every_nth_shard_from_the_kth_on():
    assert parse_range("3/16") == Range(3, 16)
    assert [Range(number, 3).among(list("abcde")) for number in (1, 2, 3)] == [["a", "d"], ["b", "e"], ["c"]]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_what_is_no_range(text):
    with pytest.raises(UserError, match=r"--shards .*expected NUMBER/OF"):
        parse_range(text)
