import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LATENT, SIDE
from generating import PROMPTS, content, made
from PIL import Image
from stored import put

from prunella.data.filter import filter_dataset
from prunella.encoding.encode import encode_dataset
from prunella.errors import UserError
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_pipeline
from prunella.sampling import image_shards
from prunella.sampling import training_images as room
from prunella.sampling.generate import generate_batch


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(image_shards, "IMAGES_PER_SHARD", 4)
    (tmp_path / "p.txt").write_text("\n".join(PROMPTS))


def members(folder: Path) -> dict[str, bytes]:
    found = {}
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file) as tar:
            found |= {entry.name: tar.extractfile(entry).read() for entry in tar}
    return found


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory) -> Path:
    """Nine pictures of three prompts, in shards of four."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "p.txt").write_text("\n".join(PROMPTS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        patch.setattr(image_shards, "IMAGES_PER_SHARD", 4)
        return made(teacher, folder)


def test_every_prompt_is_drawn_from_noises_of_its_own(whole, teacher):
    found = members(whole)
    assert len(list(whole.glob("*.tar"))) == 3 and len(found) == 4 * 9
    listed = [json.loads(line) for line in (whole / "prompts.jsonl").read_text().splitlines()]
    assert [each["text"] for each in listed] == PROMPTS * 3
    assert found["00000004.txt"].decode() == PROMPTS[1]
    assert json.loads(found["00000004.json"]) == {"seed": 5, "number": 4, "width": SIDE, "height": SIDE}
    settings = {"steps": 2, "guidance": 3.0, "seed": 5, "negative_prompt": "grey"}
    alone = generate_batch(load_pipeline(teacher), [PROMPTS[1]], [4], (SIDE, SIDE), **settings)[0]
    picture = np.asarray(Image.open(io.BytesIO(found["00000004.png"])))
    assert np.abs(picture.astype(int) - alone).max() <= 1
    pngs = {data for name, data in found.items() if name.endswith(".png")}
    assert len(pngs) == 9


@torch.no_grad()
def test_the_latents_decode_to_the_picture(whole, teacher):
    found, vae = members(whole), load_pipeline(teacher).vae
    latents = np.load(io.BytesIO(found["00000007.npy"]))
    assert latents.shape == (vae.config.latent_channels, LATENT, LATENT) and latents.dtype == np.float32
    decoded = vae.decode(torch.from_numpy(latents)[None]).sample[0].permute(1, 2, 0)
    pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    picture = np.asarray(Image.open(io.BytesIO(found["00000007.png"])))
    assert np.abs(picture - pixels).max() <= 1


def test_killed_in_a_batch_it_ends_at_the_same_bits_and_then_draws_no_more(whole, teacher, tmp_path, monkeypatch):
    """The half-written file of the batch is there, without a note. All moments: test_shards.py, test_killed.py."""
    write, count = image_shards._write_tar, []

    def killed(file, made, seconds):
        if len(count) == 3:
            file.write_bytes(b"half")
            raise KeyboardInterrupt
        count.append(file)
        write(file, made, seconds)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_shards, "_write_tar", killed)
        made(teacher, tmp_path)
    assert not (tmp_path / "set").exists()
    assert content(made(teacher, tmp_path)) == content(whole)
    monkeypatch.setattr(room, "load_for_inference", None)
    assert content(made(teacher, tmp_path)) == content(whole)


def test_more_pictures_of_a_prompt_leave_the_first_as_they_were(whole, teacher, tmp_path):
    few, many = members(made(teacher, tmp_path, images_per_prompt=2)), members(whole)
    assert all(many[name] == data for name, data in few.items() if name < "00000006")


def test_sizes_take_turns_and_the_scheduler_is_the_one_asked_for(whole, teacher, tmp_path):
    changes = {
        "sizes": [[SIDE, SIDE], [SIDE + 8, SIDE]],
        "images_per_prompt": 1,
        "scheduler": "EulerAncestralDiscreteScheduler",
    }
    found = members(made(teacher, tmp_path, "euler", **changes))
    sizes = [Image.open(io.BytesIO(found[f"0000000{i}.png"])).size for i in range(3)]
    assert sizes == [(SIDE, SIDE), (SIDE + 8, SIDE), (SIDE, SIDE)]
    again = members(made(teacher, tmp_path, "again", **changes))
    assert again == found  # though the scheduler draws noise at each step
    assert members(whole)["00000000.png"] != found["00000000.png"]


def test_sdxl_draws_too(xl_teacher, tmp_path):
    found = members(made(xl_teacher, tmp_path, images_per_prompt=1, storage="fp16"))
    assert np.load(io.BytesIO(found["00000002.npy"])).dtype == np.float16
    assert Image.open(io.BytesIO(found["00000002.png"])).size == (SIDE, SIDE)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"scheduler": "EulerDiscreteSchedular"}, r"generate\.set\.scheduler: .*did you mean 'EulerDiscreteScheduler'"),
        ({"sizes": [[SIDE, 36]]}, r"generate\.set\.sizes: 32 × 36 pixels; sides must be multiples of 8"),
        ({"id": "nobody/nothing"}, r"generate\.set\.id: nobody/nothing .*model: FOLDER"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, fault, teacher, tmp_path):
    with pytest.raises(UserError, match=fault):
        made(teacher, tmp_path, **changes)


def test_a_model_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"generate\.set\.model: .*neither a pipeline folder nor a pinned teacher"):
        made(tmp_path, tmp_path)


def learned(params, teacher: Path, source: Path, folder: Path, **changes) -> tuple[LatentDataset, dict]:
    """What encode makes of generated pictures."""
    asked = params.filter.model_copy(update={"source": "generated", "path": str(source)})
    assert filter_dataset(asked, 0, folder / "pairs")[0]["kept"] == 9
    settings = params.encode.model_copy(update={"heldout": 2} | changes)
    report = encode_dataset(settings, 0, teacher, folder / "pairs", folder / "latents", "cpu")
    return LatentDataset(folder / "latents", "train"), report


def test_encode_takes_the_latents_as_they_were_drawn(whole, params, teacher, tmp_path):
    train, report = learned(params, teacher, whole, tmp_path)
    assert report["as_drawn"] == 9
    rows, found = train.get_batch(range(len(train))), members(whole)
    drawn = [np.load(io.BytesIO(data)) for name, data in found.items() if name.endswith(".npy")]
    for i, mean in enumerate(rows["mean"].numpy()):
        (same,) = [j for j, each in enumerate(drawn) if np.array_equal(each, mean)]
        assert found[f"{same:08d}.txt"].decode() == train.captions[i]
    assert not rows["std"].any()


def test_a_set_that_was_copied_to_a_store_gives_the_same(whole, params, teacher, tmp_path):
    here, report = learned(params, teacher, whole, tmp_path / "here")
    far, again = learned(params, teacher, put(whole, "generated/whole"), tmp_path / "far")
    assert again == report and again["as_drawn"] == 9
    taken, expected = far.get_batch(range(len(far))), here.get_batch(range(len(here)))
    assert all(torch.equal(taken[name], expected[name]) for name in expected)


def test_pictures_of_another_size_or_vae_or_to_be_mirrored_are_encoded(whole, params, teacher, own_teacher, tmp_path):
    _, report = learned(params, teacher, whole, tmp_path / "size", resolution=2 * SIDE, max_upscale=4.0)
    assert "as_drawn" not in report
    train, report = learned(params, teacher, whole, tmp_path / "mirrored", flip=True)
    assert "as_drawn" not in report and train.has_mirrored
    path = own_teacher / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scaling_factor": 0.3}))
    train, report = learned(params, own_teacher, whole, tmp_path / "vae")
    assert "as_drawn" not in report and train.get_batch([0])["std"].any()


def test_a_changed_shard_or_a_folder_that_is_not_whole_is_no_source(params, teacher, tmp_path):
    source = made(teacher, tmp_path)
    shard = source / "00001.tar"
    data = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(data[:-1024])
    with pytest.raises(UserError, match=r"00001\.tar: not as it was drawn"):
        learned(params, teacher, source, tmp_path)
    (source / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"filter\.path: .* has no manifest\.json"):
        learned(params, teacher, source, tmp_path)
