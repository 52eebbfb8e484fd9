"""Pictures on a store: the tars that a folder here has, gone on with, and read from there by filter and encode."""

import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest
from generating import ASKED, PROMPTS, content, made
from stored import Watched, emptied

from prunella.data.filter import filter_dataset
from prunella.data.sources import open_source
from prunella.encoding.encode import encode_dataset
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset
from prunella.params import Generate
from prunella.sampling import image_shards, remote_shards
from prunella.sampling import training_images as room
from prunella.sampling.training_images import generate_images
from prunella.storage import remote
from prunella.storage.files import read_json
from prunella.storage.remote import PathOrRemote, parse_location, rglob_sorted

SHARDS = ["00000.tar", "00001.tar", "00002.tar"]


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 4)
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))


@pytest.fixture
def address(tmp_path):
    with emptied("pictures", tmp_path.name) as address:
        yield address


@pytest.fixture
def here(teacher, tmp_path) -> Path:
    return made(teacher, tmp_path, "here")


def far(folder: Path) -> PathOrRemote:
    return parse_location(read_json(folder / "manifest.json")["store"])


def on_store(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in rglob_sorted(far(folder), "*.tar")}


def tars_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name.endswith(".tar")}


def test_the_tars_are_those_of_a_folder_and_none_stays_here(here, teacher, address, tmp_path):
    there = made(teacher, tmp_path, "far", store=address)
    assert sorted(content(there)) == ["manifest.json", "prompts.jsonl"]
    assert on_store(there) == tars_of(here) and list(on_store(there)) == SHARDS
    assert (
        str(far(there)).startswith(f"{address}/") and list(remote_shards.list_remote_image_shards(far(there))) == SHARDS
    )
    one, other = (read_json(folder / "manifest.json") for folder in (there, here))
    assert one == other | {"store": str(far(there))}
    assert content(there)["prompts.jsonl"] == content(here)["prompts.jsonl"]
    assert not [path for path in (tmp_path / "work" / "generate-far").rglob("*") if ".tar" in path.name]


def test_a_second_run_and_one_after_a_switch_to_a_store_draw_nothing(here, teacher, address, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "load_for_inference", None)
    there = made(teacher, tmp_path, "here", store=address)  # carries what work/ held
    first = on_store(there)
    shutil.rmtree(there)
    shutil.rmtree(tmp_path / "work")  # another machine
    assert on_store(made(teacher, tmp_path, "here", store=address)) == first and list(first) == SHARDS


@pytest.mark.parametrize("killed", ["00001.tar", "00001.tar.json"])
def test_a_killed_run_goes_on_with_what_is_noted_there(here, teacher, address, killed, tmp_path, monkeypatch):
    put, filled, fill_shard = remote_shards.upload_file, [], image_shards.write_image_shard

    def dies(file, to) -> None:
        if to.name == killed:
            raise KeyboardInterrupt
        put(file, to)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(remote_shards, "upload_file", dies)
        made(teacher, tmp_path, "far", store=address)
    assert not (tmp_path / "far").exists()
    monkeypatch.setattr(image_shards, "write_image_shard", lambda *given: filled.append(given[1]) or fill_shard(*given))
    there = made(teacher, tmp_path, "far", store=address)
    assert on_store(there) == tars_of(here) and not {0, 1} & set(filled)


def test_a_store_may_be_a_folder(here, teacher, tmp_path):
    there = made(teacher, tmp_path, "far", store=str(tmp_path / "shared"))
    assert on_store(there) == tars_of(here) and far(there).parent == tmp_path / "shared"


def test_a_store_that_fails_stops_the_stage_in_a_line(teacher, address, tmp_path, monkeypatch):
    class Failing(Watched):
        def put_file(self, *_):
            raise PermissionError("Forbidden")

    monkeypatch.setattr(remote, "_filesystem", lambda kind: Failing())
    with pytest.raises(UserError, match=r"^memory://pictures/.*: the store refuses it \(Forbidden\)"):
        made(teacher, tmp_path, "far", store=address)
    assert not (tmp_path / "far").exists()


def test_filter_and_encode_read_the_pictures_and_latents_from_there(here, teacher, address, params, tmp_path):
    there = made(teacher, tmp_path, "far", store=address)
    taken = {}
    for folder in (here, there):
        pairs, out = tmp_path / f"pairs-{folder.name}", tmp_path / f"latents-{folder.name}"
        asked = {"source": "generated", "path": str(folder), "min_contrast": 0.0, "samples": 9, "languages": []}
        filter_dataset(params.filter.model_copy(update=asked), params.seed, pairs)
        report = encode_dataset(
            params.encode.model_copy(update={"heldout": 2}), params.seed, teacher, pairs, out, "cpu"
        )
        taken[folder.name] = report["as_drawn"], LatentDataset(out, "train").get_batch(list(range(7)))
    (count, one), (_, other) = taken["here"], taken["far"]
    assert count == 9 and taken["far"][0] == 9
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_of_a_shard_that_was_changed_there_nothing_is_read(teacher, address, tmp_path):
    there = made(teacher, tmp_path, "far", store=address)
    fsspec.filesystem("memory").pipe_file(f"{far(there)}/00001.tar", b"another")
    source = open_source({"source": "generated", "path": str(there), "columns": {}})
    with pytest.raises(UserError, match=r"memory://.*/00001.tar: not as it was drawn; run the stage generate again"):
        list(source.iter_rows())


def test_a_shard_that_is_lost_there_is_drawn_again(here, teacher, address, tmp_path):
    there = made(teacher, tmp_path, "far", store=address)
    fsspec.filesystem("memory").rm(f"{far(there)}/00002.tar")
    given = Generate(**ASKED | {"store": address}), "far", tmp_path / "p.txt", teacher, there, "cpu"
    assert generate_images(*given)["pictures"] == 9 and on_store(there) == tars_of(here)
