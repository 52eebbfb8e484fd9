import json

import pytest
import torch

from prunella.errors import UserError
from prunella.latents.shards import Latents, Writer


def rows(start: int, count: int) -> dict:
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    return {
        "mean": numbers.reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3),
        "std": -numbers.reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3),
        "text": 10 * numbers.reshape(-1, 1, 1).expand(-1, 5, 4),
    }


@pytest.fixture
def folder(tmp_path):
    """Seven pairs to train on in shards of three, two held out."""
    writer = Writer(tmp_path / "latents", 3)
    writer.add("train", ["a", "b"], rows(0, 2))
    writer.add("train", ["c", "d", "e", "f", "g"], rows(2, 5))
    writer.add("heldout", ["h", "ü\n"], rows(7, 2))
    writer.close({"text": torch.ones(5, 4)}, scaling_factor=0.5)
    return tmp_path / "latents"


def test_shards_are_of_the_asked_size(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["splits"] == {"train": [3, 3, 1], "heldout": [2]}
    assert manifest["scaling_factor"] == 0.5
    assert len(list(folder.glob("train-*.safetensors"))) == 3


def test_pairs_come_back_in_the_order_asked_for(folder):
    train = Latents(folder, "train")
    taken = train.take([6, 0, 3, 2])
    assert taken["mean"][:, 0, 0, 0].tolist() == [6, 0, 3, 2]
    assert taken["std"][:, 0, 0, 0].tolist() == [-6, 0, -3, -2]
    assert taken["text"][:, 0, 0].tolist() == [60, 0, 30, 20]
    assert (len(train), train.captions, train.scaling_factor) == (7, ["a", "b", "c", "d", "e", "f", "g"], 0.5)
    assert train.empty["text"].tolist() == torch.ones(5, 4).tolist()


def test_any_tensor_that_is_added_comes_back(tmp_path):
    writer = Writer(tmp_path / "latents", 2)
    writer.add("train", ["a", "b", "c"], rows(0, 3) | {"sizes": torch.arange(18.0).reshape(3, 6)})
    writer.close({"text": torch.ones(5, 4), "pooled": torch.zeros(2)}, scaling_factor=1.0)
    train = Latents(tmp_path / "latents", "train")
    assert train.take([2, 0])["sizes"].tolist() == [[12, 13, 14, 15, 16, 17], [0, 1, 2, 3, 4, 5]]
    assert train.empty["pooled"].tolist() == [0, 0]


def test_captions_of_any_kind_come_back(folder):
    assert Latents(folder, "heldout").captions == ["h", "ü\n"]


def test_the_manifest_names_the_content(folder, tmp_path):
    sums = []
    for caption in ("a", "b"):
        writer = Writer(tmp_path / caption, 3)
        writer.add("train", [caption], rows(0, 1))
        sums.append(writer.close({"text": torch.ones(5, 4)})["sha256"])
    assert sums[0] != sums[1]


def test_a_folder_without_manifest_is_not_whole(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="these latents are not whole; run the encode stage again"):
        Latents(folder, "train")
