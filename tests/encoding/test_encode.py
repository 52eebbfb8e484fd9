import json
import shutil
from collections import namedtuple
from pathlib import Path

import layouts
import pytest
import torch
from conftest import LEARNING, ROOT, SIDE
from layouts import LIMITS, drawn
from safetensors.torch import load_file, save_file
from toygraph import together

from prunella.data.filter import filter_dataset
from prunella.data.images import center_crop_resize
from prunella.data.manifest import Sample, read_sample_manifest
from prunella.data.sources import open_source
from prunella.encoding import shard_writer
from prunella.encoding.encode import encode_dataset, plan_shards, split_heldout
from prunella.errors import UserError
from prunella.latents.encoders import open_latents
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_pipeline
from prunella.params import DiffusionTraining, Encode, Filter, validate_config
from prunella.training.data import iter_heldout_batches, make_training_batches


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def changed(params, **changes) -> Encode:
    return params.encode.model_copy(update=changes)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_pair_is_in_one_split(latents, manifest):
    train, heldout = LatentDataset(latents, "train"), LatentDataset(latents, "heldout")
    assert (len(train), len(heldout)) == (22, 7)
    texts = [json.loads(line)["text"] for line in (manifest / "pairs.jsonl").read_text().splitlines()]
    assert sorted(train.captions + heldout.captions) == sorted(texts)
    assert [shard.pairs for shard in train.shards] == [10, 10, 2]


def test_the_split_stays_when_pairs_are_added():
    pairs = [Sample(str(i), "text", 1, 1, "") for i in range(100)]
    first = split_heldout(pairs, 10, 0)["heldout"]
    assert len(first) == 10
    fewer = split_heldout(pairs[:90], 10, 0)["heldout"]
    assert len(set(first) & set(fewer)) >= 8  # only those held out among the ten removed are replaced
    assert split_heldout(pairs, 10, 0)["heldout"] == first != split_heldout(pairs, 10, 1)["heldout"]


@pytest.mark.parametrize(
    ("path", "part"),
    [("vae/diffusion_pytorch_model.safetensors", "VAE"), ("text_encoder/model.safetensors", "text encoder")],
)
def test_a_teacher_whose_encoders_give_no_numbers_is_named(path, part, params, own_teacher, manifest, tmp_path):
    weights = load_file(own_teacher / path)
    name = next(name for name in weights if name.endswith(("encoder.conv_in.bias", "final_layer_norm.bias")))
    weights[name][:] = float("nan")
    save_file(weights, own_teacher / path)
    with pytest.raises(UserError, match=f"encode: the teacher's {part} gives NaN"):
        encode_dataset(params.encode, params.seed, own_teacher, manifest, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_counts_are_reported(params, teacher, manifest, tmp_path):
    report = encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu")
    assert (report["train"], report["heldout"]) == (22, 7) and report["megabytes"] > 0
    assert (report["too_small"], report["unreadable"], report["sizes"]) == (0, {}, {"32 x 32": 29})
    assert report["captions_cut"] == sum(len(text.split()) > 17 for text in _texts(manifest))


def _texts(manifest) -> list[str]:
    # In the toy's tokenizer every word of a scene's caption is one token, as is each comma.
    lines = (manifest / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line)["text"].replace(",", " ,") for line in lines]


def test_more_held_out_than_there_are(params, teacher, manifest, tmp_path):
    with pytest.raises(UserError, match=r"encode.heldout: 29 pairs are to be held out, but only 29 passed the filter"):
        encode_dataset(changed(params, heldout=29), 0, teacher, manifest, tmp_path / "out", "cpu")


def test_a_resolution_that_the_unet_cannot_halve(params, teacher, manifest, tmp_path):
    with pytest.raises(UserError, match=r"encode.resolution: 40 is no multiple of 32, which this teacher needs"):
        encode_dataset(changed(params, resolution=40), 0, teacher, manifest, tmp_path / "out", "cpu")


# Sizes


def test_shards_are_of_one_size_each_and_small_pictures_are_left_out(params):
    pairs = [Sample(str(i), "text", *size, str(i)) for i, size in enumerate([(64, 64), (128, 64), (20, 20)] * 5)]
    settings = changed(params, heldout=3, shard_size=4)
    tasks, small = plan_shards(pairs, settings, 0, [(64, 64), (96, 32)])
    assert small == 5
    assert {(task.size, (pair.width, pair.height)) for task in tasks for pair in task.pairs} == {
        ((64, 64), (64, 64)),
        ((96, 32), (128, 64)),
    }
    train = [task for task in tasks if task.split == "train"]
    assert sum(len(task.pairs) for task in train) == 7 and max(len(task.pairs) for task in train) <= 4
    assert [task.name for task in train] == [f"train-{i:05d}" for i in range(len(train))]
    with pytest.raises(UserError, match=r"only 15 passed the filter, 5 of them too small for encode.max_upscale"):
        plan_shards(pairs, changed(params, heldout=10), 0, [(64, 64), (96, 32)])


@pytest.fixture(scope="module")
def tall_and_wide(tmp_path_factory) -> Path:
    """Pictures of three shapes, 96 × 96 or so."""
    shapes = [(100, 100), (64, 128), (130, 66)]
    rows = [(f"{i}.png", drawn(i, shapes[i % 3]), f"a small red disc {i}") for i in range(24)]
    return layouts.folder(tmp_path_factory.mktemp("shapes") / "p", rows)


@pytest.fixture
def bucketed(params, xl_teacher, tall_and_wide, tmp_path) -> Path:
    given = validate_config(
        Filter, LIMITS | {"source": "folder", "path": str(tall_and_wide), "max_aspect": 3.0}, "filter"
    )
    filter_dataset(given, 0, tmp_path / "pairs")
    settings = changed(params, resolution=96, buckets="computed", heldout=6, max_upscale=1.0)
    report = encode_dataset(settings, 0, xl_teacher, tmp_path / "pairs", tmp_path / "latents", "cpu")
    assert set(report["sizes"]) == {"96 x 96", "64 x 128", "128 x 64"} and report["too_small"] == 0
    return tmp_path / "latents"


def test_batches_are_of_one_size(bucketed):
    train, heldout = LatentDataset(bucketed, "train"), LatentDataset(bucketed, "heldout")
    learning = validate_config(DiffusionTraining, LEARNING | {"batch_size": 2}, "learning")
    shapes = set()
    for number in range(20):
        batch = make_training_batches(train, 2, learning, 1000)(number)
        height, width = batch["latents"].shape[2:]
        shapes.add((width, height))
        scale = 96 // 24
        assert batch["sizes"][:, 4:].tolist() == [[height * scale, width * scale]] * 2
    assert shapes == {(24, 24), (16, 32), (32, 16)}
    held = list(iter_heldout_batches(heldout, 4, 1000))
    assert sum(len(batch["pairs"]) for batch in held) == 6
    assert sorted(torch.cat([batch["pairs"] for batch in held]).tolist()) == list(range(6))


def test_what_is_measured_in_several_sizes_does_not_depend_on_the_batches(bucketed):
    heldout = LatentDataset(bucketed, "heldout")
    one, two = ([batch["noise"].sum().item() for batch in iter_heldout_batches(heldout, size, 1000)] for size in (1, 6))
    assert len(one) == 6 and sum(one) == pytest.approx(sum(two), rel=1e-4)


# Right


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_what_is_stored_decodes_to_what_the_vae_makes_of_the_picture(params, teacher, manifest, tmp_path, storage):
    encode_dataset(changed(params, storage=storage), 0, teacher, manifest, tmp_path / "out", "cpu")
    source, pairs = read_sample_manifest(manifest)
    train, vae = LatentDataset(tmp_path / "out", "train"), load_pipeline(teacher).vae
    by_caption = {pair.text: pair for pair in pairs}
    for i in (0, 11, 21):
        picture = center_crop_resize(open_source(source).load_image(by_caption[train.captions[i]].key), SIDE, SIDE)
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            direct = vae.decode(vae.encode(pixels).latent_dist.mean).sample
            ours = vae.decode(train.get_batch([i])["mean"]).sample
        error = ((ours.clamp(-1, 1) - direct.clamp(-1, 1)) ** 2).mean()
        assert 10 * torch.log10(4 / error.clamp(min=1e-12)) > 40  # dB; the range is 2


def test_text_equals_the_stock_pipelines(teacher, xl_teacher, latents, xl_latents):
    for folder, stored in ((teacher, latents), (xl_teacher, xl_latents)):
        train, stock = LatentDataset(stored, "train"), load_pipeline(folder)
        for i in (0, 21):
            made = stock.encode_prompt(
                train.captions[i], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            taken = train.get_batch([i])
            assert torch.allclose(taken["text"], made[0], atol=1e-5)
            if "pooled" in taken:
                assert torch.allclose(taken["pooled"], made[2], atol=1e-5)


def test_tokens_teach_what_embeddings_do(params, teacher, xl_teacher, latents, xl_latents, manifest, tmp_path):
    learning = validate_config(DiffusionTraining, LEARNING | {"caption_dropout": 0.5}, "learning")
    for name, folder, stored in (("sd", teacher, latents), ("xl", xl_teacher, xl_latents)):
        report = encode_dataset(changed(params, text="tokens"), 0, folder, manifest, tmp_path / name, "cpu")
        whole = sum(path.stat().st_size for path in stored.glob("*.safetensors"))
        assert report["megabytes"] < 0.9 * whole / 1e6
        ours, theirs = (open_latents(each, folder, "cpu")[0] for each in (tmp_path / name, stored))
        for number in range(4):
            one, two = (make_training_batches(each, 3, learning, 1000)(number) for each in (ours, theirs))
            assert set(one) == set(two) and all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


def test_several_captions_are_drawn_in_training_by_seed(params, teacher, tmp_path):
    rows = [(f"{i}.png", drawn(i), ["a small red disc", "two blue rings"]) for i in range(8)]
    path = layouts.folder(tmp_path / "p", rows)
    given = validate_config(Filter, LIMITS | {"source": "folder", "path": str(path)}, "filter")
    filter_dataset(given, 0, tmp_path / "pairs")
    encode_dataset(changed(params, heldout=2), 0, teacher, tmp_path / "pairs", tmp_path / "out", "cpu")
    train, heldout = open_latents(tmp_path / "out", teacher, "cpu")
    expected = shard_writer.Encoders(teacher, "cpu").encode_captions(["a small red disc", "two blue rings"])["text"]

    def said(states: torch.Tensor) -> list[int]:
        return [int(not torch.allclose(state, expected[0], atol=1e-5)) for state in states]

    learning = validate_config(DiffusionTraining, LEARNING | {"caption_dropout": 0.0}, "learning")
    drawn_captions = [said(make_training_batches(train, 3, learning, 1000)(number)["states"]) for number in range(12)]
    again = [said(make_training_batches(train, 1, learning, 1000)(number)["states"]) for number in range(36)]
    assert 8 < sum(map(sum, drawn_captions)) < 28
    assert [each for batch in drawn_captions for each in batch] == [each for batch in again for each in batch]
    assert said(next(iter_heldout_batches(heldout, 2, 1000))["states"]) == [0, 0]


# From any layout, in any number of processes, interrupted or not


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_layout_gives_the_same_latents(layout, params, teacher, tmp_path, same_latents):
    assert content(_from(layout, params, teacher, tmp_path)) == same_latents


@pytest.fixture(scope="module")
def same_latents(params, teacher, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("same")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        return content(_from("folder", params, teacher, folder))


def _from(layout: str, params, teacher: Path, folder: Path) -> Path:
    rows = [(f"{i:02d}.png", drawn(i % 19), f"a small red disc {i % 17}") for i in range(23)]
    path = layouts.LAYOUTS[layout][0](folder / "data", rows)
    # Fewer than there are, and some that fall out: which are taken must not depend on the layout.
    given = LIMITS | layouts.settings(layout, path) | {"samples": 11, "near_duplicates": 8, "min_caption": 19}
    filter_dataset(validate_config(Filter, given, "filter"), 0, folder / "pairs")
    encode_dataset(changed(params, heldout=3, shard_size=4), 0, teacher, folder / "pairs", folder / "out", "cpu")
    return folder / "out"


def test_an_interrupted_run_goes_on_at_the_next_shard(params, teacher, manifest, tmp_path, monkeypatch, latents):
    write, written = shard_writer.write_shard, []

    def dies(folder, split, number, *rest):
        if len(written) == 2:
            (folder / f"{split}-{number:05d}.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        written.append((split, number))
        return write(folder, split, number, *rest)

    monkeypatch.setattr(shard_writer, "write_shard", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shard_writer, "write_shard", lambda *given: written.append(given[1:3]) or write(*given))
    encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu")
    assert written == [("heldout", 0), ("train", 0), ("train", 1), ("train", 2)]
    assert content(tmp_path / "out") == content(latents)


def test_a_shard_that_was_spoilt_is_made_again(params, teacher, manifest, tmp_path, latents):
    encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu")
    (shard,) = tmp_path.glob("work/encode/*/train-00001.safetensors")
    shard.unlink()
    shard.write_bytes(b"spoilt")
    encode_dataset(params.encode, params.seed, teacher, manifest, tmp_path / "again", "cpu")
    assert content(tmp_path / "again") == content(latents)


def test_two_processes_make_the_same_shards(params, teacher, manifest, tmp_path, latents):
    script = tmp_path / "encode.py"
    script.write_text(
        "import json, sys\nfrom pathlib import Path\nfrom prunella.pipeline.stage import "
        "silence_libraries\nsilence_libraries()\n"
        "from prunella.encoding.encode import encode_dataset\nfrom prunella.params import Encode\n"
        "settings = Encode.model_validate_json(sys.argv[1])\n"
        "encode_dataset(settings, 0, *map(Path, sys.argv[2:5]), 'cpu')\n"
    )
    together(tmp_path, 2, script, params.encode.model_dump_json(), teacher, manifest, tmp_path / "out")
    assert content(tmp_path / "out") == content(latents)


# What goes wrong


def test_pictures_that_vanish_after_the_filter_are_counted(params, teacher, tmp_path):
    rows = [(f"{i}.png", drawn(i), f"caption {i}") for i in range(9)]
    path = layouts.folder(tmp_path / "p", rows)
    filter_dataset(
        validate_config(Filter, LIMITS | {"source": "folder", "path": str(path)}, "filter"), 0, tmp_path / "pairs"
    )
    (path / "3.png").unlink()
    (path / "4.png").write_bytes(b"")
    (path / "5.png").write_bytes(drawn(5, (30, 40)))
    settings = changed(params, heldout=2)
    report = encode_dataset(settings, 0, teacher, tmp_path / "pairs", tmp_path / "out", "cpu")
    assert report["unreadable"] == {
        "no such file": 1,
        "empty file": 1,
        "another size than when it was filtered": 1,
    }
    assert report["train"] + report["heldout"] == 6
    train, heldout = (LatentDataset(tmp_path / "out", split) for split in ("train", "heldout"))
    assert sorted(train.captions + heldout.captions) == [f"caption {i}" for i in (0, 1, 2, 6, 7, 8)]
    shutil.rmtree(path)
    with pytest.raises(UserError, match=r"not one of the 2 pictures of heldout-00000 can be read any more"):
        encode_dataset(
            changed(params, heldout=2, batch_size=4), 0, teacher, tmp_path / "pairs", tmp_path / "other", "cpu"
        )


def test_a_full_disk_is_said_before_any_work(params, teacher, manifest, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 1000))
    with pytest.raises(UserError, match=r"GB are needed at .*, 0.0 GB are free; encode.storage fp16 halves it"):
        encode_dataset(params.encode, 0, teacher, manifest, tmp_path / "out", "cpu")


@pytest.mark.parametrize("changes", [{}, {"storage": "fp16"}, {"text": "tokens"}])
def test_the_room_that_is_said_is_what_it_takes(params, xl_teacher, manifest, tmp_path, capsys, changes):
    encode_dataset(changed(params, **changes), 0, xl_teacher, manifest, tmp_path / "out", "cpu")
    said = float(capsys.readouterr().out.split("size: ")[1].split(" GB")[0])
    taken = sum(path.stat().st_size for path in (tmp_path / "out").glob("*-*.safetensors")) / 1e9
    assert said == pytest.approx(taken, abs=0.0006)


# Changed since the filter


@pytest.fixture
def own_pictures(params, tmp_path) -> tuple[Path, Path]:
    """A folder of 13 pictures that a test may spoil, and the manifest of what passed."""
    path = layouts.folder(tmp_path / "p", [(f"{i}.png", drawn(i), f"a small red disc {i}") for i in range(13)])
    filter_dataset(
        validate_config(Filter, LIMITS | {"source": "folder", "path": str(path)}, "filter"), 0, tmp_path / "pairs"
    )
    return path, tmp_path / "pairs"


def test_pictures_swapped_since_the_filter_are_left_out_by_name(params, teacher, own_pictures, tmp_path, capsys):
    path, pairs = own_pictures
    for name in ("3.png", "11.png"):
        (path / name).write_bytes(drawn(5))  # of the same size in pixels
    report = encode_dataset(changed(params, heldout=2), 0, teacher, pairs, tmp_path / "out", "cpu")
    assert report["unreadable"] == {"another picture than when it was filtered": 2}
    assert report["train"] + report["heldout"] == 11
    captions = LatentDataset(tmp_path / "out", "train").captions + LatentDataset(tmp_path / "out", "heldout").captions
    assert not {"a small red disc 3", "a small red disc 11"} & set(captions)
    said = capsys.readouterr().err
    assert "3.png" in said and "11.png" in said and "5.png" not in said


def test_all_pictures_replaced_stop_the_stage(params, teacher, own_pictures, tmp_path):
    path, pairs = own_pictures
    for file in path.glob("*.png"):
        file.write_bytes(drawn(50))
    with pytest.raises(UserError, match=r"not one of the 2 pictures of heldout-00000"):
        encode_dataset(changed(params, heldout=2), 0, teacher, pairs, tmp_path / "out", "cpu")


def test_another_vocabulary_than_the_filters_is_refused(params, teacher, tmp_path):
    own = Path(shutil.copy(ROOT / "data" / "scenes.yaml", tmp_path))
    given = LIMITS | {"source": "scenes", "path": str(own), "samples": 9, "max_caption": 400}
    filter_dataset(validate_config(Filter, given, "filter"), 0, tmp_path / "pairs")
    own.write_text(own.read_text() + "\n")
    with pytest.raises(UserError, match=r"scenes.yaml.*filter"):
        encode_dataset(changed(params, heldout=2), 0, teacher, tmp_path / "pairs", tmp_path / "out", "cpu")
