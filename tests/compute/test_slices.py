"""Parts of a stage's work: their numbers, and what a folder says of itself."""

import pytest

from prunella.compute.resume import Identity
from prunella.compute.slices import Kind, Range, begin_part, checked_part, parse_range
from prunella.errors import UserError


def test_a_range_is_every_nth_shard_from_the_kth_on():
    assert parse_range("3/16") == Range(3, 16)
    assert [Range(number, 3).among(list("abcde")) for number in (1, 2, 3)] == [["a", "d"], ["b", "e"], ["c"]]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_what_is_no_range(text):
    with pytest.raises(UserError, match=r"--shards .*expected NUMBER/OF"):
        parse_range(text)


def test_a_part_of_another_stage_is_named(tmp_path):
    known = Identity({"seed": 3}, [["pairs", "ab"]], "cd")
    filtering, encoding = (Kind(stage, "a whole", "pieces", "data") for stage in ("filter", "encode"))
    begin_part(tmp_path, Range(2, 5), known, filtering)
    assert checked_part(tmp_path, known, filtering) == Range(2, 5)
    with pytest.raises(UserError, match="holds a part of filter, not of encode; leave it out"):
        checked_part(tmp_path, known, encoding)
