import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from layouts import LIMITS, drawn
from PIL import Image

from prunella.data.criteria import CRITERIA, apply_criteria
from prunella.data.filter import filter_dataset, filter_urls, format_counts_csv, random_order
from prunella.data.images import RejectedImage
from prunella.data.manifest import read_sample_manifest
from prunella.data.schema import STRIPPED_CHARS, normalize_table, rows_to_table
from prunella.data.sources import open_source
from prunella.errors import UserError
from prunella.params import Filter, fill_section, validate_config


def asked(path, source="folder", **changes) -> Filter:
    return validate_config(
        Filter, fill_section("filter", LIMITS | {"source": source, "path": str(path)} | changes), "filter"
    )


def fell(report: dict) -> dict:
    return {criterion: count for criterion, count in report["fell"].items() if count}


@pytest.fixture
def folder(tmp_path):
    """One pair for each criterion of picture and caption, two that pass."""
    root = tmp_path / "pictures"
    root.mkdir()
    sizes = {
        "good": (20, 30),
        "other": (17, 16),
        "small": (15, 40),
        "wide": (33, 16),
        "none": (20, 20),
        "short": (20, 20),
        "long": (20, 20),
        "odd": (20, 20),
        "rude": (20, 20),
    }
    for i, (name, size) in enumerate(sizes.items()):
        (root / f"{name}.png").write_bytes(drawn(i, size))
    (root / "copy.png").write_bytes((root / "good.png").read_bytes())
    (root / "near.png").write_bytes(drawn(0, (20, 30), "WEBP", quality=98))
    (root / "broken.png").write_text("no picture")
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "green")]
    frames[0].save(root / "moving.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (20, 20), "grey").save(root / "blank.png")
    captions = dict.fromkeys([*sizes, "copy", "near", "broken", "absent", "blank"], "a caption")
    captions |= {"none": " ", "short": "ab", "long": "a" * 21, "odd": "nul \0 here", "rude": "a Bloody, word"}
    lines = [json.dumps({"file_name": f"{name}.png", "text": text}) for name, text in captions.items()]
    lines += [json.dumps({"file_name": "moving.gif", "text": "two frames"}), "no json"]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


EVERYTHING = {"blocked_words": ["bloody", "c++"], "min_contrast": 2.0, "near_duplicates": 8}


def test_each_criterion_is_counted_once(folder, tmp_path):
    report, examples, _ = filter_dataset(asked(folder, **EVERYTHING), 0, tmp_path / "out")
    assert {key: value for key, value in report.items() if key != "fell"} == {
        "source": "folder",
        "read": 16,
        "looked_at": 10,
        "passed": 2,
        "kept": 2,
        "causes": {"line is no JSON": 1, "no picture": 1, "no such file": 1},
    }
    once = ["no_caption", "caption_short", "caption_long", "caption_odd", "blocked_word", "small", "aspect", "animated"]
    once += ["blank", "duplicate", "near_duplicate"]
    assert fell(report) == {"broken": 3} | dict.fromkeys(once, 1)
    assert list(report["fell"]) == list(CRITERIA)
    source, pairs = read_sample_manifest(tmp_path / "out")
    assert source == {"source": "folder", "path": str(folder), "columns": {}}
    assert [(pair.key, pair.width, pair.height) for pair in pairs] == [("good.png", 20, 30), ("other.png", 17, 16)]
    assert [(example.key, example.cause) for example in examples["broken"]] == [
        ("metadata.jsonl, line 16", "line is no JSON"),
        ("broken.png", "no picture"),
        ("absent.png", "no such file"),
    ]
    assert [example.key for example in examples["near_duplicate"]] == ["near.png"]
    assert format_counts_csv(report).splitlines()[:2] == ["criterion,pairs", "broken,3"]


def test_too_many_broken_pictures_stop_the_stage(folder, tmp_path):
    (folder / "metadata.jsonl").write_text((folder / "metadata.jsonl").read_text().replace("no json", ""))
    message = (
        r"3 of 10 pictures looked at in .* cannot be used, more than filter.max_corrupt_fraction \(0.1\) "
        r"allows: .*no picture"
    )
    (folder / "wide.png").write_bytes(b"")
    with pytest.raises(UserError, match=message):
        filter_dataset(asked(folder, max_corrupt_fraction=0.1, blocked_words=["bloody"]), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_too_many_faulty_rows_stop_it_before_any_picture(folder, tmp_path):
    (folder / "metadata.jsonl").write_text('{"file_name": "good.png", "text": "fine"}\nx\ny\n')
    with pytest.raises(
        UserError, match=r"2 of 3 rows in .*: line is no JSON \(2\); for example metadata.jsonl, line 2"
    ):
        filter_dataset(asked(folder), 0, tmp_path / "out")


def test_nothing_left_says_where_it_fell(folder, tmp_path):
    with pytest.raises(UserError, match=r"no pair of .* is left; most fell out at small \(8 of 16\)"):
        filter_dataset(asked(folder, min_side=1000), 0, tmp_path / "out")
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join(lines[:3]))
    with pytest.raises(UserError, match=r"is left; all 3 fell out at caption_short"):
        filter_dataset(asked(folder, min_caption=19), 0, tmp_path / "out")


def test_samples_are_drawn_by_seed_and_keep_their_order(params, tmp_path):
    chosen = []
    for i, seed in enumerate((0, 0, 1)):
        report, *_ = filter_dataset(params.filter.model_copy(update={"samples": 11}), seed, tmp_path / str(i))
        chosen.append([int(pair.key.split(".")[0]) for pair in read_sample_manifest(tmp_path / str(i))[1]])
        assert (report["passed"], report["looked_at"], report["kept"]) == (29, 11, 11)
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] == sorted(chosen[0])


def test_a_sample_stays_when_pairs_are_added():
    keys = [f"{i}.png" for i in range(100)]
    first = {keys[i] for i in random_order(pa.array(keys), 0)[:20]}
    more = [*keys[50:], *(f"new {i}" for i in range(10)), *keys[:50]]
    assert len(first & {more[i] for i in random_order(pa.array(more), 0)[:20]}) >= 14


def test_pairs_of_one_caption_are_drawn_one_by_one():
    order = random_order(pa.array(["the same"] * 500 + [f"another {i}" for i in range(500)]), 0)
    assert sorted(order.tolist()) == list(range(1000))
    assert 200 < sum(i < 500 for i in order[:500]) < 300
    assert (
        random_order(pa.array([["a", "b"], ["c"]]), 0).tolist() in ([0, 1], [1, 0])
        and random_order(pa.array([], pa.string()), 0).size == 0
    )


def test_pictures_that_fall_are_replaced_by_others(tmp_path):
    rows = [(f"{i}.png", drawn(i) if i % 3 else b"", f"caption {i}") for i in range(30)]
    report, *_ = filter_dataset(asked(layouts.folder(tmp_path / "p", rows), samples=15), 0, tmp_path / "out")
    assert report["kept"] == 15 and 15 < report["looked_at"] <= 30
    assert report["looked_at"] == 15 + report["fell"]["broken"]


def test_the_number_of_threads_changes_nothing(folder, tmp_path):
    found = [filter_dataset(asked(folder, **EVERYTHING, samples=2), 3, tmp_path / str(n), workers=n)[0] for n in (1, 5)]
    assert found[0] == found[1]
    assert (tmp_path / "1" / "pairs.jsonl").read_text() == (tmp_path / "5" / "pairs.jsonl").read_text()


def test_scenes_need_no_pixels_on_disk(tmp_path):
    report, _, source = filter_dataset(
        asked(ROOT / "data" / "scenes.yaml", "scenes", samples=13, max_caption=400), 3, tmp_path
    )
    assert (report["read"], report["kept"]) == (13, 13)
    assert read_sample_manifest(tmp_path)[0] == source
    assert source["seed"] == 3 and len(source["sha256"]) == 64
    assert [pair.key for pair in read_sample_manifest(tmp_path)[1]] == [str(i) for i in range(13)]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match=r"filter.path: there is no folder"):
        filter_dataset(asked(tmp_path / "none"), 0, tmp_path / "out")


# Scores, on a table

SCORES = {
    "aesthetic": [8.0, 7.0, None, float("nan"), 8.0, 8.0, 8.0, 8.0, 8.0],
    "punsafe": [0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1],
    "pwatermark": [0.1, 0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1],
    "similarity": [0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.1, 0.3, 0.3],
    "LANGUAGE": ["en", "en", "en", "en", "en", "en", "en", "de", "EN"],
}
LIMITED = {
    "aesthetic": {"min": 7.5},
    "max_punsafe": 0.5,
    "max_pwatermark": 0.8,
    "min_similarity": 0.2,
    "languages": ["en"],
}


@pytest.fixture(params=["folder", "csv", "parquet", "paths", "webdataset", "hub"])
def scored(request, tmp_path):
    rows = [(f"{i}.png", drawn(i), f"caption {i}") for i in range(9)]
    path = layouts.LAYOUTS[request.param][0](tmp_path / "scored", rows, **SCORES)
    return layouts.settings(request.param, path)


def test_scores_are_held_against_their_limits(scored, tmp_path):
    report, *_ = filter_dataset(
        validate_config(Filter, fill_section("filter", LIMITS | scored | LIMITED), "filter"), 0, tmp_path / "out"
    )
    expected = {"language": 1, "aesthetic": 3, "punsafe": 1, "pwatermark": 1, "similarity": 1}
    assert fell(report) == expected and report["looked_at"] == 2
    assert report["causes"] == {"aesthetic: no value": 2}
    assert [pair.text for pair in read_sample_manifest(tmp_path / "out")[1]] == ["caption 0", "caption 8"]


def test_a_score_that_the_data_lack_is_named(tmp_path):
    path = layouts.folder(tmp_path / "p", [("a.png", drawn(0), "caption")])
    with pytest.raises(
        UserError, match=r"filter.max_punsafe: the data at .* have no column 'punsafe' .* file_name, text"
    ):
        filter_dataset(asked(path, max_punsafe=0.5), 0, tmp_path / "out")
    with pytest.raises(UserError, match=r"filter.aesthetic.min: .*or filter.aesthetic.model a model to make it"):
        filter_dataset(asked(path, aesthetic={"min": 5}), 0, tmp_path / "out")


def test_a_model_gives_the_score_that_the_data_lack(tmp_path):
    path = layouts.folder(tmp_path / "p", [(f"{i}.png", drawn(i, (20 + i, 20)), "caption") for i in range(5)])
    given = asked(path, aesthetic={"min": 22.5, "model": "head.safetensors", "clip": "clip"})
    report, *_ = filter_dataset(
        given, 0, tmp_path / "out", score_images=lambda pictures: [float(each.width) for each in pictures]
    )
    assert fell(report) == {"aesthetic": 3} and report["kept"] == 2


def test_sizes_in_the_table_save_the_decoding(tmp_path):
    rows = [(f"{i}.png", drawn(i), "caption") for i in range(4)]
    path = layouts.folder(tmp_path / "p", rows, WIDTH=[10, 40, None, 100], HEIGHT=[40, 30, 30, 10])
    report, *_ = filter_dataset(asked(path), 0, tmp_path / "out")
    assert fell(report) == {"small": 2} and report["looked_at"] == 2
    # 100 × 10 is too long, and all others are 1200 pixels, whatever the table says.
    report, *_ = filter_dataset(asked(path, min_megapixels=0.001, min_side=1), 0, tmp_path / "other")
    assert fell(report) == {"small": 1, "aspect": 1} and report["looked_at"] == 2
    with pytest.raises(UserError, match=r"all 4 fell out at large"):
        filter_dataset(asked(path, max_megapixels=0.0011, min_side=1, max_aspect=20), 0, tmp_path / "third")


def test_of_several_captions_those_that_pass_are_kept(tmp_path):
    texts = [["a caption", "x", "another one"], ["x", "y"], [], ["only this"]]
    rows = [(f"{i}.png", drawn(i), text) for i, text in enumerate(texts)]
    for layout in ("folder", "parquet", "webdataset"):
        path = layouts.LAYOUTS[layout][0](tmp_path / layout, rows)
        given = validate_config(Filter, LIMITS | layouts.settings(layout, path), "filter")
        report, *_ = filter_dataset(given, 0, tmp_path / f"{layout}-out")
        assert fell(report) == {"caption_short": 1, "no_caption": 1}
        kept = [pair.text for pair in read_sample_manifest(tmp_path / f"{layout}-out")[1]]
        assert kept == [["a caption", "another one"], "only this"]


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_layout_gives_the_same_pairs(layout, tmp_path):
    rows = [(f"{i:02d}.png", drawn(i), f"caption {i}") for i in range(11)]
    path = layouts.LAYOUTS[layout][0](tmp_path / "data", rows)
    given = validate_config(Filter, LIMITS | layouts.settings(layout, path), "filter")
    report, *_ = filter_dataset(given, 0, tmp_path / "out")
    assert report["kept"] == 11
    pairs = read_sample_manifest(tmp_path / "out")[1]
    assert [(pair.text, pair.width, pair.height) for pair in pairs] == [(row[2], 40, 30) for row in rows]
    assert len({pair.key for pair in pairs}) == len({pair.sum for pair in pairs}) == 11


def test_a_caption_of_megabytes(tmp_path):
    texts = pa.array(["x" * 10_000_000, " " * 5000 + "fine", "nul \0"])
    table = pa.table({"image": [drawn(i) for i in range(3)], "text": texts})
    pq.write_table(table, tmp_path / "a.parquet")
    report, *_ = filter_dataset(asked(tmp_path, "parquet"), 0, tmp_path / "out")
    assert fell(report) == {"caption_long": 1, "caption_odd": 1}
    assert [pair.text for pair in read_sample_manifest(tmp_path / "out")[1]] == ["fine"]


LETTERS = st.characters(codec="utf-8") | st.sampled_from(["\0", "\ufeff", "\u202e", "\u2028", "\U0001f600", '"', "\\"])
CAPTIONS = st.text(LETTERS, max_size=30) | st.binary(max_size=30) | st.none() | st.integers() | st.floats()
CAPTIONS |= st.lists(st.text(LETTERS, max_size=9) | st.none() | st.integers(), max_size=3)


@settings(max_examples=150, deadline=None, derandomize=True)
@given_any(st.lists(CAPTIONS, min_size=1, max_size=6))
def test_any_caption_is_kept_as_text_or_counted(captions):
    rows = rows_to_table(
        [str(i) for i in range(len(captions))], [{"text": each} for each in captions], {"text": "text"}
    )
    arrow = normalize_table(pa.table({"text": _arrow(captions)}), {"text": "text"}, rows["key"], ["text"])
    given = asked("x", min_caption=1)
    for table in (rows, arrow):
        kept, reasons = apply_criteria(table, given)
        assert len(reasons) == len(captions)
        for text, reason in zip(kept["text"].to_pylist(), reasons.tolist(), strict=True):
            assert reason >= 0 or all(
                each == each.strip(STRIPPED_CHARS) and 0 < len(each) <= 20 for each in _listed(text)
            )
        assert json.loads(json.dumps(kept["text"].to_pylist()).encode().decode()) == kept["text"].to_pylist()


def _arrow(captions: list) -> pa.Array:
    """As a Parquet file would have them: of one type, here the first one's."""
    first = captions[0]
    if isinstance(first, list):
        lists = [[each for each in some if isinstance(each, str)] for some in captions if isinstance(some, list)]
        return pa.array(lists + [None] * (len(captions) - len(lists)), pa.list_(pa.string()))
    bytes_ = [each if isinstance(each, bytes) else str(each).encode(errors="replace") for each in captions]
    return pa.array(bytes_, pa.binary())


def _listed(text) -> list[str]:
    return text if isinstance(text, list) else [text]


def test_one_batch_without_a_column_is_as_one_of_nulls(tmp_path):
    for name, columns in (("a", {"language": ["en", None]}), ("b", {})):
        table = pa.table({"image": [drawn(ord(name)), drawn(1)], "text": ["one", "two"], **columns})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    report, *_ = filter_dataset(asked(tmp_path, "parquet", languages=["en"]), 0, tmp_path / "out")
    assert fell(report) == {"language": 3} and report["causes"] == {"language: no value": 1}


def test_no_rows_at_all(tmp_path):
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match=r"^there is no pair at all in"):
        filter_dataset(asked(tmp_path, "parquet"), 0, tmp_path / "out")


def test_a_hub_dataset_of_files_is_read_where_datasets_has_them(tmp_path):
    path = layouts.folder(tmp_path / "hub", [(f"{i}.png", drawn(i), f"caption {i}") for i in range(3)])
    report, *_ = filter_dataset(asked(tmp_path / "elsewhere", "hub", id=str(path)), 0, tmp_path / "out")
    assert report["kept"] == 3


def test_a_score_that_is_no_number_falls(tmp_path):
    path = layouts.folder(tmp_path / "p", [(f"{i}.png", drawn(i), "caption") for i in range(2)])
    given = asked(path, aesthetic={"min": 5, "model": "head.safetensors", "clip": "clip"})
    with pytest.raises(UserError, match=r"all 2 fell out at aesthetic"):
        filter_dataset(given, 0, tmp_path / "out", score_images=lambda pictures: [float("nan") for _ in pictures])


def test_duplicate_keys_are_pairs_of_their_own(tmp_path):
    path = layouts.folder(tmp_path / "p", [("a.png", drawn(0), "caption"), ("b.png", drawn(1), "caption")])
    with (path / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": "a.png", "text": "said otherwise"}\n')
    report, *_ = filter_dataset(asked(path), 0, tmp_path / "out")
    assert fell(report) == {"duplicate": 1} and report["kept"] == 2


def test_numbers_of_any_kind_are_read(tmp_path):
    scores = pa.array([np.float16(0.1), np.float16(0.9)], pa.float16())
    table = pa.table({"image": [drawn(0), drawn(1)], "text": ["one", "two"], "PUNSAFE": scores})
    pq.write_table(table.append_column("pwatermark", pa.array(["0.2", "none"])), tmp_path / "a.parquet")
    report, *_ = filter_dataset(asked(tmp_path, "parquet", max_punsafe=0.5), 0, tmp_path / "one")
    assert fell(report) == {"punsafe": 1}
    report, *_ = filter_dataset(asked(tmp_path, "parquet", max_pwatermark=0.5), 0, tmp_path / "two")
    assert fell(report) == {"pwatermark": 1} and report["causes"] == {"pwatermark: no value": 1}


def test_a_table_of_urls_is_shortlisted(tmp_path):
    columns = {"URL": [f"http://x/{i}.jpg" for i in range(4)], "TEXT": ["one", "x", "three", "four"]}
    pq.write_table(
        pa.table(columns | {"aesthetic": [8.0, 8.0, 7.0, 8.0], "hash": [1, 2, 3, 4]}), tmp_path / "t.parquet"
    )
    given = asked(tmp_path, "parquet", aesthetic={"min": 7.5})
    named = {"url": "URL", "text": "TEXT"}
    assert filter_urls(given, tmp_path / "t.parquet", tmp_path / "short.parquet", named) == (4, 2)
    kept = pq.read_table(tmp_path / "short.parquet")
    assert kept.column_names == ["URL", "TEXT", "aesthetic", "hash"] and kept["hash"].to_pylist() == [1, 4]
    with pytest.raises(UserError, match=r"no row of .*t.parquet is left; most fell out at aesthetic \(3 of 4\)"):
        filter_urls(
            asked(tmp_path, "parquet", aesthetic={"min": 9}), tmp_path / "t.parquet", tmp_path / "none.parquet", named
        )
    with pytest.raises(
        UserError, match=r"filter.max_punsafe: .* no column 'punsafe' .* they have URL, TEXT, aesthetic"
    ):
        filter_urls(
            asked(tmp_path, "parquet", max_punsafe=0.5), tmp_path / "t.parquet", tmp_path / "other.parquet", named
        )


def test_what_the_machine_fails_at_stops_the_stage_and_is_not_counted(folder, tmp_path, monkeypatch):
    read = Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "other.png":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(UserError, match=r"^other\.png: .*EIO"):
        filter_dataset(asked(folder, **EVERYTHING), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_web_addresses_are_shortlisted(tmp_path):
    sound = ["http://x/a.jpg", "HTTPS://x/b.jpg"]
    odd = [
        "file:///etc/passwd",
        "ftp://x/c",
        "data:image/png;base64,AA",
        "//x/d",
        "http:///e",
        "",
        None,
        "javascript:0",
    ]
    table = pa.table({"URL": [*sound, *odd], "TEXT": ["a caption"] * 10, "hash": range(10)})
    pq.write_table(table, tmp_path / "t.parquet")
    named = {"url": "URL", "text": "TEXT"}
    for given in (None, asked(tmp_path, "parquet")):
        assert filter_urls(given, tmp_path / "t.parquet", tmp_path / "s.parquet", named) == (10, 2)
        assert pq.read_table(tmp_path / "s.parquet").equals(table.slice(0, 2))
    pq.write_table(table.slice(2), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"all 8 fell out at broken: address .*http.*, for example file:///etc/passwd"):
        filter_urls(None, tmp_path / "t.parquet", tmp_path / "s.parquet", named)


def test_files_of_one_table_have_its_columns(tmp_path):
    rows = {"URL": ["http://x/a.jpg"], "TEXT": ["a caption"]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    pq.write_table(pa.table({"TEXT": rows["TEXT"], "URL": rows["URL"]}), tmp_path / "b.parquet")
    named = {"url": "URL", "text": "TEXT"}
    assert filter_urls(None, tmp_path, tmp_path / "s", named) == (2, 2)
    pq.write_table(pa.table(rows | {"hash": [1]}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match="different columns"):
        filter_urls(None, tmp_path, tmp_path / "s", named)


def test_captions_that_leave_no_ink_are_none(tmp_path):
    blank = ["\u200b" * 4, "\u2060\u00a0\u200d ", "\u3164\u2800\uffa0", "\u0301\ufe0f\u0301", "\u00ad\u180e\u3000"]
    inked = ["\u200babc", "\u202eright", "\U0001f469\u200d\U0001f680!", "e\u0301t\u00e9", "\u0633\u0644\u0627\u0645"]
    rows = [(f"{i}.png", drawn(i), text) for i, text in enumerate(blank + inked)]
    for layout in ("folder", "parquet"):
        path = layouts.LAYOUTS[layout][0](tmp_path / layout, rows)
        given = validate_config(Filter, LIMITS | layouts.settings(layout, path), "filter")
        report, *_ = filter_dataset(given, 0, tmp_path / f"{layout}-out")
        assert fell(report) == {"no_caption": len(blank)}
        assert [pair.text for pair in read_sample_manifest(tmp_path / f"{layout}-out")[1]] == inked


def test_where_everything_is_broken_the_first_cause_is_named(tmp_path):
    path = layouts.folder(tmp_path / "p", [(f"{i}.png", b"", "a caption") for i in range(2)])
    with pytest.raises(UserError, match=r"^no pair of .* all 2 fell out at broken: empty file, for example 0\.png"):
        filter_dataset(asked(path, max_corrupt_fraction=1.0), 0, tmp_path / "out")


def test_a_hub_dataset_names_no_file_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "private.png").write_bytes(drawn(0))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "own.png").write_bytes(drawn(1))
    monkeypatch.chdir(tmp_path)
    names = [str(tmp_path / "private.png"), "private.png", "../private.png", "own.png"]
    features = {"string": pa.array(names), "struct": pa.array([{"bytes": None, "path": name} for name in names])}
    for kind, column in features.items():
        pq.write_table(pa.table({"image": column, "text": ["a caption"] * 4}), tmp_path / "set" / "a.parquet")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / kind))
        report, *_ = filter_dataset(
            asked("x", "hub", id=str(tmp_path / "set"), max_corrupt_fraction=1.0), 0, tmp_path / f"{kind}-out"
        )
        assert report["kept"] == 1 and fell(report) == {"broken": 3}
        assert report["causes"] == {"file outside the dataset": 2, "no such file": 1}
        assert [pair.text for pair in read_sample_manifest(tmp_path / f"{kind}-out")[1]] == ["a caption"]


def test_of_the_hubs_cache_only_the_datasets_own_part_is_read(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    ours, theirs = (tmp_path / f"datasets--owner--{name}" / "blobs" for name in ("ours", "theirs"))
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
        (folder / "a").write_bytes(drawn(0))
    source = open_source({"source": "hub", "id": "owner/ours", "revision": "x", "split": "train", "columns": {}})
    source._image_column = _Rows(pa.table({"image": [str(ours / "a"), str(theirs / "a")]}))
    assert source.read_image_bytes("0") == drawn(0)
    with pytest.raises(RejectedImage, match="file outside the dataset"):
        source.read_image_bytes("1")


class _Rows:
    """Slices of a table, as a dataset gives them."""

    def __init__(self, table: pa.Table):
        self.table = table

    def __getitem__(self, rows: slice) -> pa.Table:
        return self.table.slice(rows.start, rows.stop - rows.start)


LOCALE = """
import sys
from pathlib import Path
from prunella.data.filter import filter_dataset
from prunella.data.manifest import read_sample_manifest
from prunella.params import Filter
assert sys.flags.utf8_mode == 0 and not sys.stdout.encoding.lower().startswith("utf")
for source in ("folder", "parquet", "webdataset"):
    out = Path(sys.argv[2]) / f"{source}-out"
    given = Filter.model_validate_json(sys.argv[1]).model_copy(
        update={"source": source, "path": f"{sys.argv[2]}/{source}"})
    filter_dataset(given, 0, out)
    print(ascii(read_sample_manifest(out)[1][0].text))
"""


def test_captions_of_any_script_are_written_in_any_locale(tmp_path):
    rows = [("a.png", drawn(0), "\u732b\u304c\u5bdd\u308b")]
    for layout in ("folder", "parquet", "webdataset"):
        layouts.LAYOUTS[layout][0](tmp_path / layout, rows)
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", LOCALE, asked(tmp_path).model_dump_json(), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=True, env=os.environ | plain)
    assert done.stdout.split() == [ascii(rows[0][2]).encode()] * 3
