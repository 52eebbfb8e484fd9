import json

import pytest
from conftest import ROOT
from PIL import Image

from prunella.errors import UserError
from prunella.filtering import CRITERIA, filtered
from prunella.params import Filter, check
from prunella.samples.pairs import read_manifest

LIMITS = {
    "samples": 100,
    "min_side": 16,
    "max_aspect": 2.0,
    "min_caption": 3,
    "max_caption": 20,
    "max_broken": 0.5,
}


def asked(path, source="folder", **changes) -> Filter:
    return check(Filter, LIMITS | {"source": source, "path": str(path)} | changes, "filter")


@pytest.fixture
def folder(tmp_path):
    """One pair for each criterion, two that pass."""
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
    }
    for i, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (i, 0, 0)).save(root / f"{name}.png")
    (root / "copy.png").write_bytes((root / "good.png").read_bytes())
    (root / "broken.png").write_text("no picture")
    captions = dict.fromkeys([*sizes, "copy", "broken", "absent"], "a caption") | {
        "none": " ",
        "short": "ab",
        "long": "a" * 21,
    }
    lines = [json.dumps({"file_name": f"{name}.png", "text": text}) for name, text in captions.items()]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root


def test_each_criterion_is_counted_once(folder, tmp_path):
    report = filtered(asked(folder), 0, tmp_path / "out")
    assert report == {
        "source": "folder",
        "read": 10,
        "passed": 2,
        "kept": 2,
        "fell": {
            "no_caption": 1,
            "caption_short": 1,
            "caption_long": 1,
            "broken": 2,
            "small": 1,
            "aspect": 1,
            "duplicate": 1,
        },
    }
    assert list(report["fell"]) == list(CRITERIA)
    source, pairs = read_manifest(tmp_path / "out")
    assert source == {"source": "folder", "path": str(folder)}
    assert [(pair.key, pair.width, pair.height) for pair in pairs] == [("good.png", 20, 30), ("other.png", 17, 16)]


def test_too_many_broken_pictures_stop_the_stage(folder, tmp_path):
    with pytest.raises(UserError, match=r"2 of 10 pictures in .* cannot be read, more than filter.max_broken \(0.1\)"):
        filtered(asked(folder, max_broken=0.1), 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_left_says_where_most_fell(folder, tmp_path):
    with pytest.raises(UserError, match=r"no pair of .* is left; most fell out at small \(5 of 10\)"):
        filtered(asked(folder, min_side=1000), 0, tmp_path / "out")


def test_samples_are_drawn_by_seed_and_keep_their_order(params, tmp_path):
    drawn = []
    for i, seed in enumerate((0, 0, 1)):
        report = filtered(params.filter.model_copy(update={"samples": 11}), seed, tmp_path / str(i))
        drawn.append([int(pair.key.split(".")[0]) for pair in read_manifest(tmp_path / str(i))[1]])
        assert (report["passed"], report["kept"]) == (29, 11)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == sorted(drawn[0])


def test_scenes_need_no_pixels_on_disk(tmp_path):
    report = filtered(asked(ROOT / "data" / "scenes.yaml", "scenes", samples=13, max_caption=400), 3, tmp_path)
    assert (report["read"], report["kept"]) == (13, 13)
    source, pairs = read_manifest(tmp_path)
    assert source["seed"] == 3 and len(source["sha256"]) == 64
    assert [pair.key for pair in pairs] == [str(i) for i in range(13)]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(UserError, match=r"filter.path: there is no folder"):
        filtered(asked(tmp_path / "none"), 0, tmp_path / "out")
