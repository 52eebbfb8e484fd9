import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from prunella.errors import UserError
from prunella.latents import shards
from prunella.latents.shards import LatentDataset, verify_shard, write_manifest, write_shard
from prunella.storage.files import sha256


def rows(start: int, count: int) -> dict:
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    return {
        "mean": numbers.reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3),
        "std": -numbers.reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3),
        "text": 10 * numbers.reshape(-1, 1, 1).expand(-1, 5, 4),
    }


EMPTY = {"text": torch.ones(5, 4)}


@pytest.fixture
def folder(tmp_path):
    """Seven pairs to train on in shards of three, the last wider than the others; two held out."""
    (out := tmp_path / "latents").mkdir()
    shards = [
        write_shard(out, "heldout", 0, (24, 24), ["h", "ü\n\u2028"], rows(7, 2)),
        write_shard(out, "train", 0, (24, 24), ["a", "b", "c"], rows(0, 3)),
        write_shard(out, "train", 1, (24, 24), ["d", "e", "f"], rows(3, 3)),
        write_shard(out, "train", 2, (32, 16), ["g"], rows(6, 1)),
    ]
    write_manifest(out, shards, EMPTY, scaling_factor=0.5)
    return out


def test_the_manifest_names_the_shards(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [shard["pairs"] for shard in manifest["splits"]["train"]] == [3, 3, 1]
    assert [shard["name"] for shard in manifest["splits"]["heldout"]] == ["heldout-00000"]
    assert manifest["scaling_factor"] == 0.5
    assert len(list(folder.glob("train-*.safetensors"))) == 3 and not list(folder.glob("*.half"))


def test_pairs_come_back_in_the_order_asked_for(folder):
    train = LatentDataset(folder, "train")
    taken = train.get_batch([6, 0, 3, 2])
    assert taken["mean"][:, 0, 0, 0].tolist() == [6, 0, 3, 2]
    assert taken["std"][:, 0, 0, 0].tolist() == [-6, 0, -3, -2]
    assert taken["text"][:, 0, 0].tolist() == [60, 0, 30, 20]
    assert (len(train), train.captions, train.scaling_factor) == (7, ["a", "b", "c", "d", "e", "f", "g"], 0.5)
    assert train.empty["text"].tolist() == torch.ones(5, 4).tolist()


def test_pairs_are_parted_by_size(folder):
    train = LatentDataset(folder, "train")
    assert [group.tolist() for group in train.by_size(np.arange(7))] == [[0, 1, 2, 3, 4, 5], [6]]
    assert [group.tolist() for group in train.by_size(np.array([5, 6]))] == [[5], [6]]
    assert [group.tolist() for group in train.by_size(np.array([1, 4]))] == [[1, 4]]
    assert train.by_size(np.array([], int)) == []


def test_what_is_stored_in_fewer_bits_comes_back_as_fp32(tmp_path):
    halves = {name: value.half() for name, value in rows(0, 3).items()} | {"sizes": torch.arange(18.0).reshape(3, 6)}
    shard = write_shard(tmp_path, "train", 0, (24, 24), ["a", "b", "c"], halves)
    write_manifest(tmp_path, [shard], {"text": torch.ones(5, 4).half(), "pooled": torch.zeros(2)}, scaling_factor=1.0)
    train = LatentDataset(tmp_path, "train")
    taken = train.get_batch([2, 0])
    assert taken["sizes"].tolist() == [[12, 13, 14, 15, 16, 17], [0, 1, 2, 3, 4, 5]]
    assert {value.dtype for value in (*taken.values(), *train.empty.values())} == {torch.float32}
    assert train.empty["pooled"].tolist() == [0, 0]


def test_of_several_captions_one_is_drawn(tmp_path):
    texts = torch.arange(4.0).reshape(4, 1, 1).expand(-1, 5, 4)
    several = rows(0, 2) | {"text": texts, "captions": torch.tensor([[0, 3], [3, 1]], dtype=torch.int32)}
    shard = write_shard(tmp_path, "train", 0, (24, 24), [["a", "b", "c"], "d"], several)
    write_manifest(tmp_path, [shard], EMPTY, scaling_factor=1.0)
    train = LatentDataset(tmp_path, "train")
    assert train.has_several_captions and train.captions == ["a", "d"]

    def taken(*draws):
        return train.get_batch([0] * len(draws) + [1], np.array([*draws, 0.99]))["text"][:, 0, 0].tolist()

    assert taken(0.0, 0.32, 0.34, 0.66, 0.67, 0.99) == [0, 0, 1, 1, 2, 2, 3]
    assert train.get_batch([1, 0])["text"][:, 0, 0].tolist() == [3, 0]
    assert set(train.get_batch([0])) == {"mean", "std", "text"}


def test_tokens_are_made_text_by_the_encoders(tmp_path):
    tokens = {name: value for name, value in rows(0, 2).items() if name != "text"}
    tokens["tokens"] = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)
    shard = write_shard(tmp_path, "train", 0, (24, 24), ["a", "b"], tokens)
    write_manifest(tmp_path, [shard], EMPTY, scaling_factor=1.0, text="tokens")
    train = LatentDataset(tmp_path, "train", texts=lambda given: {"text": 10.0 * given["tokens"]})
    assert train.get_batch([1, 0])["text"].tolist() == [[30, 40], [10, 20]]
    with pytest.raises(UserError, match="holds tokens; they are opened with the text encoders"):
        LatentDataset(tmp_path, "train")


def test_captions_of_any_kind_come_back(folder):
    assert LatentDataset(folder, "heldout").captions == ["h", "ü\n\u2028"]


def test_the_manifest_names_the_content(tmp_path):
    sums = []
    for caption in ("a", "b"):
        (tmp_path / caption).mkdir()
        shard = write_shard(tmp_path / caption, "train", 0, (24, 24), [caption], rows(0, 1))
        sums.append(write_manifest(tmp_path / caption, [shard], EMPTY)["sha256"])
    assert sums[0] != sums[1]


def test_a_folder_without_manifest_is_not_whole(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(UserError, match="these latents are not whole; run the encode stage again"):
        LatentDataset(folder, "train")


def test_a_shard_that_is_missing_or_short_is_named(folder):
    file = folder / "train-00001.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=rf"train-00001.safetensors: {size:,} bytes were written, {size - 1:,} bytes is"
    ):
        LatentDataset(folder, "train")
    file.unlink()
    with pytest.raises(UserError, match=r"train-00001.safetensors: .* nothing is there; run the encode stage again"):
        LatentDataset(folder, "train")


@pytest.mark.parametrize("kind", [".safetensors", ".jsonl", ".json"])
def test_a_damaged_shard_is_none(folder, kind):
    assert verify_shard(folder, "train-00000").pairs == 3
    file = folder / f"train-00000{kind}"
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    assert verify_shard(folder, "train-00000") is None
    file.unlink()
    assert verify_shard(folder, "train-00000") is None


def flip(file, place: int = -1) -> None:
    """One bit of a byte, the size kept."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_a_rotten_bit_in_a_shard_is_found_when_the_shard_is_first_opened(folder):
    flip(folder / "train-00001.safetensors")
    train = LatentDataset(folder, "train")
    assert train.get_batch([0, 6])["mean"][:, 0, 0, 0].tolist() == [0, 6]
    with pytest.raises(UserError, match=r"train-00001.safetensors.*encode"):
        train.get_batch([5])


def test_a_rotten_header_is_named(folder):
    flip(folder / "train-00002.safetensors", 8)  # {
    with pytest.raises(UserError, match=r"train-00002.safetensors.*encode"):
        LatentDataset(folder, "train").has_several_captions  # noqa: B018


def test_rotten_bits_in_captions_empty_and_manifest_are_named(folder):
    (folder / "train-00000.jsonl").write_text('"a"\n"b"\n"C"\n')
    with pytest.raises(UserError, match=r"train-00000.jsonl.*encode"):
        LatentDataset(folder, "train").captions  # noqa: B018
    flip(folder / "empty.safetensors")
    with pytest.raises(UserError, match=r"empty.safetensors.*encode"):
        LatentDataset(folder, "heldout").empty  # noqa: B018
    manifest = folder / "manifest.json"
    sound = manifest.read_text()
    for spoilt in (sound.replace('"scaling_factor": 0.5', '"scaling_factor": 0.4'), sound[:-9], "[]"):
        manifest.write_text(spoilt)
        with pytest.raises(UserError, match=r"manifest.json.*encode"):
            LatentDataset(folder, "train")


def test_a_shard_is_summed_once(folder, monkeypatch):
    summed = []
    monkeypatch.setattr(shards, "sha256", lambda file: summed.append(file.name) or sha256(file))
    train = LatentDataset(folder, "train")
    for _ in range(3):
        train.get_batch([0, 1, 6])
    assert summed == ["train-00000.safetensors", "train-00002.safetensors"]


ENDS_WHILE_READING = """
import sys, threading, time
from pathlib import Path
import numpy as np
from prunella.latents import shards
reading = threading.Event()
def slow(path):
    reading.set()
    time.sleep(60)
shards.sha256 = slow
shards.LatentDataset(Path(sys.argv[1]), "train").prefetch(np.arange(7))
reading.wait()
raise SystemExit("ends")
"""


def test_a_process_ends_without_waiting_for_what_it_reads_ahead(folder):
    command = [sys.executable, "-c", ENDS_WHILE_READING, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stderr) == (1, "ends\n")


def test_what_is_damaged_is_no_matter_until_it_is_taken(folder, capsys):
    path = folder / "train-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    train = LatentDataset(folder, "train")
    train.prefetch(np.array([0, 4, 6]))
    train.prefetch(np.array([6]))
    for thread in threading.enumerate():
        if thread.name == "reading ahead":
            thread.join()
    assert torch.equal(train.get_batch([0, 6])["mean"][:, 0, 0, 0], torch.tensor([0.0, 6.0]))
    with pytest.raises(UserError, match=r"train-00001\.safetensors: damaged"):
        train.get_batch([4])
    assert capsys.readouterr().err == ""
