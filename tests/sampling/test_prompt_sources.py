import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

from prunella.data.sources import open_source
from prunella.errors import UserError
from prunella.sampling.prompt_sources import MAX_PROMPT_CHARS, sample_prompts


def written(path, text: str):
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_has_a_prompt_a_line(tmp_path):
    path = written(tmp_path / "prompts.txt", "\ufeffa cat \nein Öltopf\n")
    assert sample_prompts(path, 9, 0) == ["a cat", "ein Öltopf"]


def test_of_lines_of_json_the_captions_column_is_taken(tmp_path):
    path = written(tmp_path / "p.jsonl", '{"prompt": "a cat", "seed": 3}\n{"Text": ["a dog", "a hound"]}')
    assert sample_prompts(path, 9, 0) == ["a cat", "a dog"]


def test_of_a_table_blank_rows_are_passed_over_and_no_pictures_are_needed(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    pq.write_table(pa.table({"Prompt": ["a", " ", None, "x" * (MAX_PROMPT_CHARS + 1)]}), folder / "0.parquet")
    pq.write_table(pa.table({"captions": [["b", "c"], []]}), folder / "1.parquet")
    assert sample_prompts(folder, 9, 0) == ["a", "b"]


def test_captions_of_pictures_and_of_scenes_are_prompts(pictures, tmp_path):
    texts = [json.loads(line)["text"] for line in (pictures / "metadata.jsonl").read_text().splitlines()]
    assert sample_prompts(pictures, 99, 0) == texts == sample_prompts(pictures / "metadata.jsonl", 99, 0)
    words = ROOT / "data" / "scenes.yaml"
    rendered = next(iter(open_source({"source": "scenes", "path": str(words), "seed": 4}).iter_rows()))
    assert sample_prompts(words, 11, 4) == rendered["text"].to_pylist()[:11]


def test_fewer_are_drawn_by_seed_in_their_own_order(tmp_path):
    path = written(tmp_path / "p.txt", "\n".join(f"prompt {i:02d}" for i in range(40)))
    some = sample_prompts(path, 7, 0)
    assert len(some) == 7 and some == sorted(some) != sample_prompts(path, 7, 1)
    assert some == sample_prompts(path, 7, 0)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("p.txt", "a\n \nb", r"p\.txt, line 2: blank"),
        ("p.txt", "a\n" + "x" * 2001, r"p\.txt, line 2: 2,001 characters, more than 2,000"),
        ("p.txt", "", r"p\.txt: no prompt is in it"),
        ("p.jsonl", '{"prompt": ""}', r"p\.jsonl, line 1: blank"),
        ("p.jsonl", '{"prompt": 3}', r"p\.jsonl, line 1: the prompt is no text but 3"),
        ("p.jsonl", '{"picture": "a"}', r"p\.jsonl, line 1: has no prompt, text or caption"),
        ("p.jsonl", "a cat", r"p\.jsonl, line 1: no JSON"),
        ("p.docx", "a", r"p\.docx: prompts are read from \.txt, \.jsonl"),
        ("p.parquet", "a", r"p\.parquet: no Parquet file"),
    ],
)
def test_what_is_no_list_of_prompts_is_refused_by_file_and_line(tmp_path, name, text, fault):
    with pytest.raises(UserError, match=fault):
        sample_prompts(written(tmp_path / name, text), 9, 0)


def test_bytes_that_are_no_text_a_table_without_prompts_and_nothing_are_refused(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match=r"p\.txt: not UTF-8 \(byte 3\)"):
        sample_prompts(tmp_path / "p.txt", 9, 0)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: no column is called prompt.*it has id"):
        sample_prompts(tmp_path / "t.parquet", 9, 0)
    with pytest.raises(UserError, match="there is no such file"):
        sample_prompts(tmp_path / "absent.txt", 9, 0)
