"""What lies in a folder of pictures."""

import pytest
from layouts import LAYOUTS, drawn
from stored import put

from prunella.cli.wizard.images import detect_dataset
from prunella.errors import UserError

ROWS = [(f"{i}.png", drawn(i), f"caption {i}") for i in range(7)]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "hub"])
def test_a_layout_is_seen_and_its_pairs_are_counted(layout, tmp_path):
    write, source = LAYOUTS[layout]
    found = detect_dataset(str(write(tmp_path / "pictures", ROWS)))
    assert (found.source, found.path) == (source, str(tmp_path / "pictures"))
    assert found.num_samples == (None if layout == "webdataset" else 7)  # tars would have to be read from end to end


@pytest.mark.parametrize("layout", ["folder", "beside", "parquet", "webdataset"])
def test_a_layout_is_seen_on_a_store_too(layout, tmp_path):
    write, source = LAYOUTS[layout]
    far = put(write(tmp_path / "pictures", ROWS), f"init/{layout}")
    assert detect_dataset(far) == (source, far, None if layout == "webdataset" else 7)


def test_a_listing_counts_for_more_than_what_else_lies_there(tmp_path):
    write, _ = LAYOUTS["folder"]
    (write(tmp_path / "pictures", ROWS) / "old.parquet").touch()
    assert detect_dataset(str(tmp_path / "pictures")).source == "folder"


def test_pictures_without_a_caption_do_not_count(tmp_path):
    write, _ = LAYOUTS["beside"]
    root = write(tmp_path / "pictures", ROWS)
    (root / "3.txt").unlink()
    (root / "alone.txt").write_text("a caption without a picture")
    assert detect_dataset(str(root)).num_samples == 6


def test_what_nobody_can_learn_from_is_refused_in_a_line(tmp_path):
    write, _ = LAYOUTS["beside"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[]")
    refused = {
        tmp_path / "nowhere": "there is no such folder",
        tmp_path / "empty": "have no captions",
        tmp_path / "list.json": r"\.tar, \.parquet files",
        write(tmp_path / "one", ROWS[:1]): "only 1 of its pictures",
    }
    for path, said in refused.items():
        with pytest.raises(UserError, match=said) as caught:
            detect_dataset(str(path))
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
