import shutil

import pytest
from parted import spoilt

from prunella.compute.slices import Slice
from prunella.encoding import shard_writer
from prunella.encoding.encode import encode_dataset
from prunella.encoding.slices import encode_slice, merge_encode_slices
from prunella.errors import UserError


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def asked(params, teacher, manifest) -> tuple:
    return params.encode, params.seed, teacher, manifest


@pytest.fixture
def made(asked, tmp_path):
    """Makes part K of N of the toy's four shards; its folder."""

    def make(number: int, of: int):
        encode_slice(*asked, tmp_path / f"{number}-of-{of}", "cpu", Slice(number, of))
        return tmp_path / f"{number}-of-{of}"

    return make


def test_parts_in_any_order_give_what_the_stage_gives(made, asked, latents, tmp_path, monkeypatch):
    folders = [made(number, 3) for number in (3, 1, 2)]
    assert sorted(path.stem for folder in folders for path in folder.glob("*.safetensors")) == [
        "heldout-00000", "train-00000", "train-00001", "train-00002"
    ]  # fmt: skip
    assert merge_encode_slices(*asked, folders) == 4
    monkeypatch.setattr(shard_writer, "write_shard", None)
    report = encode_dataset(*asked, tmp_path / "out", "cpu")
    assert content(tmp_path / "out") == content(latents) and report["train"] == 22


def test_a_part_is_gone_on_with(made, asked, monkeypatch):
    folder = made(1, 2)
    before = content(folder)
    (folder / "train-00001.safetensors").write_bytes(b"half")
    kept = (folder / "heldout-00000.safetensors").stat().st_mtime_ns
    assert made(1, 2) == folder and content(folder) == before
    assert (folder / "heldout-00000.safetensors").stat().st_mtime_ns == kept


def test_missing_parts_are_named_and_nothing_is_merged(made, asked, tmp_path):
    folders = [made(2, 5), made(5, 5)]
    with pytest.raises(UserError) as error:
        merge_encode_slices(*asked, folders)
    assert str(error.value) == (
        "encode --merge: 3 of 4 shards are missing or damaged (heldout-00000, train-00001, train-00002); "
        "to be made: --slice 1/5, 3/5, 4/5"
    )
    assert not list(tmp_path.glob("work/encode/*/*.safetensors"))


def test_a_damaged_shard_is_missing(made, asked):
    folders = [made(1, 2), made(2, 2)]
    shard = folders[1] / "train-00002.safetensors"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"1 of 4 .*\(train-00002\); to be made: --slice 2/2$"):
        merge_encode_slices(*asked, folders)


def test_parts_of_two_divisions_may_be_merged_where_they_hold_all(made, asked):
    folders = [made(1, 2), made(2, 4)]
    with pytest.raises(UserError, match=r"1 of 4 .*\(train-00002\); the parts given are not parts of one number"):
        merge_encode_slices(*asked, folders)
    assert merge_encode_slices(*asked, [*folders, made(4, 4)]) == 4


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda note: note["known"].update(code="else"), "part 1/2 was made by other code; make it again"),
        (lambda note: note["known"]["params"].update(seed=1), r"other parameters \(section encode, or seed\); make"),
        (lambda note: note["known"].update(inputs=[], code="else"), "other teacher or pairs and other code"),
        (lambda note: note.pop("known"), r"part.json: damaged"),
    ],
)
def test_a_part_of_something_else_is_refused(spoil, said, made, asked):
    folder = spoilt(made(1, 2), spoil)
    with pytest.raises(UserError, match=said):
        merge_encode_slices(*asked, [folder])


def test_a_folder_that_is_another_part_or_none(made, asked, tmp_path):
    shutil.copytree(made(1, 2), tmp_path / "2-of-2")
    with pytest.raises(UserError, match="2-of-2: holds part 1/2; part 2/2 needs a folder of its own"):
        made(2, 2)
    with pytest.raises(UserError, match=r"no part.json, so this is no part"):
        merge_encode_slices(*asked, [tmp_path])
