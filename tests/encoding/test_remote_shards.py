"""Shards on a store: the bytes that they have here, gone on with, and read through copies."""

import shutil
from collections import namedtuple
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from conftest import LEARNING
from stored import Watched, emptied

from prunella.compute.slices import Slice
from prunella.encoding import remote_shards, shard_writer
from prunella.encoding.encode import encode_dataset
from prunella.encoding.remote_shards import list_remote_shards
from prunella.encoding.slices import encode_slice, merge_encode_slices
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.latents.shards import LatentDataset
from prunella.params import DiffusionTraining, validate_config
from prunella.storage import remote
from prunella.storage.remote import parse_location
from prunella.training.data import make_training_batches

NAMES = ["heldout-00000", "train-00000", "train-00001", "train-00002"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def address(tmp_path):
    with emptied("store", tmp_path.name) as address:
        yield address


@pytest.fixture
def asked(params, teacher, manifest, address) -> tuple:
    return params.encode.model_copy(update={"store": address}), params.seed, teacher, manifest


def content(folder) -> dict[str, bytes]:
    """Of the shards' files; a note on a store says more."""
    return {path.name: path.read_bytes() for path in remote.rglob_sorted(folder, "*-*") if path.suffix != ".json"}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_shards_are_those_of_a_folder_and_nothing_of_them_stays_here(asked, latents, tmp_path, capsys):
    report = encode_dataset(*asked, tmp_path / "out", "cpu")
    assert files(tmp_path / "out") == ["empty.safetensors", "manifest.json"]
    assert "shards, which go to memory://store/" in capsys.readouterr().out
    train, here = LatentDataset(tmp_path / "out", "train"), LatentDataset(latents, "train")
    assert content(train.place) == content(latents) and list(list_remote_shards(train.place)) == NAMES
    assert not list((tmp_path / "work").rglob("*.safetensors")) and not list((tmp_path / "work").rglob("*.half"))
    assert [shard._replace(tensors=()) for shard in train.shards] == here.shards
    assert train.shards[0].tensors == ("mean", "std", "text") and train.manifest["empty"] == here.manifest["empty"]
    assert (report["train"], report["heldout"]) == (22, 7) and report["megabytes"] > 0
    assert train.captions == here.captions and len(train) == 22
    taken, expected = train.get_batch([0, 21, 10]), here.get_batch([0, 21, 10])
    assert all(torch.equal(taken[name], expected[name]) for name in expected) and taken.keys() == expected.keys()


def test_a_second_run_and_one_after_a_switch_to_a_store_encode_nothing(asked, latents, tmp_path, monkeypatch):
    params, *rest = asked
    encode_dataset(params.model_copy(update={"store": None}), *rest, tmp_path / "here", "cpu")
    monkeypatch.setattr(shard_writer, "write_shard", None)
    encode_dataset(params, *rest, tmp_path / "out", "cpu")  # carries what work/ held
    first = content(LatentDataset(tmp_path / "out", "train").place)
    shutil.rmtree(tmp_path / "out")
    shutil.rmtree(tmp_path / "work")  # another machine
    encode_dataset(params, *rest, tmp_path / "out", "cpu")
    assert first == content(LatentDataset(tmp_path / "out", "train").place) == content(latents)


@pytest.mark.parametrize("killed", ["train-00001.safetensors", "train-00001.jsonl", "train-00001.json"])
def test_a_killed_run_goes_on_with_what_is_noted_on_the_store(asked, latents, killed, tmp_path, monkeypatch):
    put, written = remote_shards.upload_file, []
    write_text, write_shard = remote.RemotePath.write_text, shard_writer.write_shard

    def dies(file, to) -> None:
        if to.name == killed:
            raise KeyboardInterrupt
        put(file, to)

    def dies_writing(self, text) -> None:
        if self.name == killed:
            raise KeyboardInterrupt
        write_text(self, text)

    with monkeypatch.context() as patch:
        patch.setattr(remote_shards, "upload_file", dies)
        patch.setattr(remote.RemotePath, "write_text", dies_writing)
        with pytest.raises(KeyboardInterrupt):
            encode_dataset(*asked, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shard_writer, "write_shard", lambda *given: written.append(given[1:3]) or write_shard(*given))
    encode_dataset(*asked, tmp_path / "out", "cpu")
    assert content(LatentDataset(tmp_path / "out", "train").place) == content(latents)
    assert ("heldout", 0) not in written and ("train", 0) not in written and ("train", 1) not in written


def test_a_shard_cut_short_on_the_store_is_made_again(asked, latents, tmp_path):
    encode_dataset(*asked, tmp_path / "out", "cpu")
    home = LatentDataset(tmp_path / "out", "train").place
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"{home}/train-00001.safetensors", b"cut")
    with pytest.raises(UserError, match=r"train-00001.safetensors: not on the store as it was written; `dvc repro --f"):
        LatentDataset(tmp_path / "out", "train")
    encode_dataset(*asked, tmp_path / "out", "cpu")
    assert content(home) == content(latents)


def test_a_store_may_be_a_folder_that_is_read_in_place(asked, latents, tmp_path):
    params, *rest = asked
    encode_dataset(params.model_copy(update={"store": str(tmp_path / "shared")}), *rest, tmp_path / "out", "cpu")
    train = LatentDataset(tmp_path / "out", "train")
    assert content(train.place) == content(latents) and train.captions == LatentDataset(latents, "train").captions
    assert torch.equal(train.get_batch([3])["mean"], LatentDataset(latents, "train").get_batch([3])["mean"])
    assert not (tmp_path / "work" / "cache").exists()


def test_a_store_that_fails_stops_the_stage_in_a_line(asked, tmp_path, monkeypatch):
    class Failing(Watched):
        def put_file(self, *_):
            raise PermissionError("Forbidden")

    monkeypatch.setattr(remote, "_filesystem", lambda kind: Failing())
    with pytest.raises(UserError, match=r"^memory://store/.*: the store refuses it \(Forbidden\)"):
        encode_dataset(*asked, tmp_path / "out", "cpu")


def test_jobs_need_no_folder_in_common_and_a_merge_says_what_is_missing(asked, latents, tmp_path, monkeypatch):
    tasks, where = encode_slice(*asked, tmp_path / "a", "cpu", Slice(2, 3))
    assert [task.name for task in tasks] == ["train-00000"] and files(tmp_path / "a") == ["part.json"]
    assert content(where) == {name: data for name, data in content(latents).items() if "train-00000" in name}
    with pytest.raises(UserError, match=r"3 of 4 shards are missing in memory://.* \(heldout-00000, train-00001, tr"):
        merge_encode_slices(*asked, [])
    for number in (3, 1):
        monkeypatch.setenv("DVC_ROOT", str(tmp_path / str(number)))
        encode_slice(*asked, tmp_path / f"b{number}", "cpu", Slice(number, 3))
    assert merge_encode_slices(*asked, []) == 4 and content(where) == content(latents)


# Reading


@pytest.fixture
def far(asked, tmp_path) -> Path:
    """The toy's pairs in shards of four on a store: six to train on."""
    params, *rest = asked
    encode_dataset(params.model_copy(update={"shard_size": 4}), *rest, tmp_path / "out", "cpu")
    return tmp_path / "out"


@pytest.fixture
def here(params, teacher, manifest, tmp_path) -> Path:
    settings = params.encode.model_copy(update={"shard_size": 4})
    encode_dataset(settings, params.seed, teacher, manifest, tmp_path / "here", "cpu")
    return tmp_path / "here"


def learning(**changes) -> DiffusionTraining:
    return validate_config(DiffusionTraining, LEARNING | {"batch_size": 2} | changes, "learning")


@pytest.mark.parametrize("together", [None, 1, 2])
def test_batches_are_those_of_shards_here_and_copies_are_let_go(far, here, together, tmp_path, monkeypatch):
    watched = Watched()
    monkeypatch.setattr(remote, "_filesystem", lambda kind: watched)
    settings, most = learning(shuffle_shards=together), 0
    batches = [make_training_batches(LatentDataset(folder, "train"), 2, settings, 1000) for folder in (far, here)]
    for number in range(40):  # three and a half epochs
        one, other = (batch(number) for batch in batches)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)
        most = max(most, len(list((tmp_path / "work" / "cache").glob("?" * 64))))
    if together is None:
        assert most == 6 and len(watched.fetched) == 6
    else:
        assert len(watched.fetched) > 6


def test_of_shards_far_behind_no_copy_is_kept(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("prunella.training.data.MAX_LAG", 1)
    params, *rest = asked
    encode_dataset(params.model_copy(update={"shard_size": 1}), *rest, tmp_path / "out", "cpu")  # 22 shards
    train = LatentDataset(tmp_path / "out", "train")
    batch, counts = make_training_batches(train, 2, learning(shuffle_shards=2), 1000), []
    for number in range(11):
        batch(number)
        counts.append(len(list((tmp_path / "work" / "cache").glob("?" * 64))))
    assert max(counts) <= 10  # of 22: at most three windows of two shards, and four under way


def test_room_for_copies_is_looked_for_first(far, tmp_path, monkeypatch):
    train = LatentDataset(far, "train")
    size = train.shards[0].bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(4 * size))
    with pytest.raises(UserError, match=r"copies of 6 shards take .* GB are free; with shuffle_shards keeps those"):
        make_training_batches(train, 2, learning(), 1000)
    with pytest.raises(UserError, match=r"copies of 6 shards take .* a smaller shuffle_shards"):
        make_training_batches(train, 2, learning(shuffle_shards=2), 1000)
    make_training_batches(train, 2, learning(shuffle_shards=1), 1000)(0)


def test_tokens_and_text_encoders_go_with_a_store(asked, teacher, tmp_path):
    params, *rest = asked
    encode_dataset(params.model_copy(update={"text": "tokens"}), *rest, tmp_path / "out", "cpu")
    train, heldout = open_latents(tmp_path / "out", teacher, "cpu")
    assert (
        train.get_batch([0])["text"].ndim == 3
        and len(heldout) == 7
        and not train.has_several_captions
        and not train.has_mirrored
    )
    train.prefetch(np.arange(22))
    assert parse_location(train.manifest["store"]) == train.place
