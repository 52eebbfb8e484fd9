"""Parts of a stage's work: their numbers, and what a folder says of itself."""

import pytest

from prunella.compute.resume import Identity
from prunella.compute.slices import Slice, SliceKind, open_slice, parse_slice, validate_slice
from prunella.errors import UserError


def test_a_range_is_every_nth_shard_from_the_kth_on():
    assert parse_slice("3/16") == Slice(3, 16)
    assert [Slice(number, 3).select(list("abcde")) for number in (1, 2, 3)] == [["a", "d"], ["b", "e"], ["c"]]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_what_is_no_range(text):
    with pytest.raises(UserError, match=r"--slice .*expected NUMBER/OF"):
        parse_slice(text)


def test_a_part_of_another_stage_is_named(tmp_path):
    known = Identity({"seed": 3}, [["pairs", "ab"]], "cd")
    filtering, encoding = (SliceKind(stage, "a whole", "pieces", "data") for stage in ("filter", "encode"))
    open_slice(tmp_path, Slice(2, 5), known, filtering)
    assert validate_slice(tmp_path, known, filtering) == Slice(2, 5)
    with pytest.raises(UserError, match="holds a part of filter, not of encode; leave it out"):
        validate_slice(tmp_path, known, encoding)
