import pytest

from prunella.bench.evidence import add_row, read_rows
from prunella.errors import UserError


def test_rows_stand_behind_each_other_and_half_a_row_gives_way(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    assert read_rows(path) == []
    add_row(path, {"seed": 0, "word": "é"})
    with path.open("a") as file:
        file.write('{"seed": 1, "wo')
    assert read_rows(path) == [{"seed": 0, "word": "é"}]
    add_row(path, {"seed": 1})
    assert read_rows(path) == [{"seed": 0, "word": "é"}, {"seed": 1}]


def test_a_line_that_is_no_json_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"seed": 0}\n<<<<<<< HEAD\n')
    with pytest.raises(UserError, match=r"rows\.jsonl: a line is no JSON"):
        read_rows(tmp_path / "rows.jsonl")
