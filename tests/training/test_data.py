import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LATENT, LEARNING, SIDE, TOKENS, WIDTH
from toyxl import POOLED

from prunella.data.images import center_crop_resize
from prunella.data.manifest import read_sample_manifest
from prunella.data.sources import open_source
from prunella.encoding.encode import encode_dataset
from prunella.latents.encoders import encode_images
from prunella.latents.shards import LatentDataset
from prunella.models.pipeline import load_pipeline
from prunella.params import DiffusionTraining, validate_config
from prunella.training.data import (
    PRIOR,
    REHEARSAL,
    add_auxiliary_batches,
    auxiliary_batch,
    iter_heldout_batches,
    make_training_batches,
)


@pytest.fixture
def train(latents) -> LatentDataset:
    return LatentDataset(latents, "train")


def learning(dropout: float, **changes) -> DiffusionTraining:
    return validate_config(DiffusionTraining, LEARNING | {"caption_dropout": dropout} | changes, "learning")


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_batch_is_a_function_of_its_step(train):
    one, two = (make_training_batches(train, 3, learning(0.1), 1000) for _ in range(2))
    assert same(one(4), two(4))
    assert not same(one(4), one(5))
    batch = one(0)
    assert batch["latents"].shape == batch["noise"].shape == (3, 4, LATENT, LATENT)
    assert batch["states"].shape == (3, TOKENS, WIDTH) and batch["timesteps"].shape == (3,)


def test_a_batch_is_the_same_however_it_is_cut(train):
    whole = make_training_batches(train, 6, learning(0.5, noise_offset=0.2), 1000)(2)
    parts = [make_training_batches(train, 2, learning(0.5, noise_offset=0.2), 1000)(number) for number in (6, 7, 8)]
    assert same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})


def reading_ahead() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "reading ahead"]


def test_in_windows_shards_are_read_ahead_and_a_batch_is_the_same_however_it_is_cut(
    params, teacher, manifest, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    encode_dataset(params.encode.model_copy(update={"shard_size": 4}), 0, teacher, manifest, tmp_path / "out", "cpu")
    train, settings = LatentDataset(tmp_path / "out", "train"), learning(0.5, shuffle_shards=1)
    first = make_training_batches(train, 2, settings, 1000)(0)
    for thread in reading_ahead():
        thread.join()
    assert len(train.shards) == 6 and len(set(train.shard_of(first["pairs"].numpy()).tolist())) == 1
    assert 2 <= len(train._opened) <= 3  # of the batch, and of what comes a window later
    again = LatentDataset(tmp_path / "out", "train")
    seen = [make_training_batches(again, 4, settings, 1000)(number) for number in range(11)]
    pairs = torch.cat([batch["pairs"] for batch in seen])
    assert sorted(pairs[:22].tolist()) == sorted(pairs[22:].tolist()) == list(range(22))
    whole = make_training_batches(again, 8, settings, 1000)(3)
    assert same(whole, {name: torch.cat([seen[number][name] for number in (6, 7)]) for name in whole})


def test_pairs_beside_are_as_many_have_a_chance_of_their_own_and_leave_the_batch_as_it_is(train, latents):
    others = {PRIOR: train, REHEARSAL: train}
    plain = make_training_batches(train, 3, learning(0.5), 1000)

    def beside_of(number: int, size: int) -> dict:
        batches = make_training_batches(train, size, learning(0.5), 1000)
        return add_auxiliary_batches(batches, others, size, learning(0.5), 1000)(number)

    whole = beside_of(4, 3)
    assert same(plain(4), whole) and len(whole) == 3 * len(plain(4))
    prior, rehearsal = auxiliary_batch(whole, PRIOR), auxiliary_batch(whole, REHEARSAL)
    assert prior.keys() == rehearsal.keys() == plain(4).keys() and prior.num_examples == 3
    assert not any(same(a, b) for a, b in ((prior, rehearsal), (prior, plain(4)), (rehearsal, plain(4))))
    parts = [beside_of(number, 1) for number in (12, 13, 14)]  # of three processes, or of three passes
    assert same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})
    assert same(rehearsal, make_training_batches(train, 3, learning(0.5, seed=LEARNING["seed"] + 2), 1000)(4))


def test_offset_noise_shifts_each_channel_as_a_whole(train):
    plain, offset = (make_training_batches(train, 3, learning(0.1, noise_offset=by), 1000)(1) for by in (0.0, 0.5))
    shift = offset["noise"] - plain["noise"]
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-6)
    assert 0.1 < shift[:, :, 0, 0].std() < 1.0
    assert all(torch.equal(plain[name], offset[name]) for name in plain if name != "noise")


@pytest.fixture
def mirrored(params, teacher, manifest, tmp_path, monkeypatch) -> Path:
    """The toy's pairs, encoded mirrored too."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    asked = params.encode.model_copy(update={"flip": True})
    encode_dataset(asked, params.seed, teacher, manifest, tmp_path / "latents", "cpu")
    return tmp_path / "latents"


def test_every_other_place_sees_the_mirrored_picture_and_nothing_else_changes(train, mirrored):
    both = LatentDataset(mirrored, "train")
    assert both.has_mirrored and not train.has_mirrored
    flat, half = (make_training_batches(pairs, 22, learning(0.1), 1000) for pairs in (train, both))
    other = []
    for number in range(20):
        plain, drawn = flat(number), half(number)
        assert all(torch.equal(plain[name], drawn[name]) for name in plain if name != "latents")
        other.append((plain["latents"] != drawn["latents"]).flatten(1).any(1))
    assert 0.42 < torch.cat(other).float().mean() < 0.58  # of 440 places
    parts = [make_training_batches(both, 11, learning(0.1), 1000)(number) for number in (8, 9)]
    assert same(half(4), {name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def test_a_mirrored_place_holds_the_latents_of_the_mirrored_picture(mirrored, manifest, teacher):
    both = LatentDataset(mirrored, "train")
    source, pairs = read_sample_manifest(manifest)
    of = {pair.text: pair for pair in pairs}
    picture = center_crop_resize(open_source(source).load_image(of[both.captions[3]].key), SIDE, SIDE)
    mean, std = encode_images(load_pipeline(teacher).vae, picture[None, :, ::-1].copy())
    taken = both.get_batch([3], is_mirrored=np.array([True]))
    assert torch.allclose(taken["mean"], mean, atol=1e-4) and torch.allclose(taken["std"], std, atol=1e-4)
    assert not torch.allclose(both.get_batch([3], is_mirrored=np.array([False]))["mean"], mean, atol=1e-4)


def test_held_out_pairs_are_never_mirrored(latents, mirrored):
    one, two = (next(iter_heldout_batches(LatentDataset(folder, "heldout"), 7, 1000)) for folder in (latents, mirrored))
    assert same(one, two)


def test_what_is_measured_does_not_depend_on_the_batches(latents):
    heldout = LatentDataset(latents, "heldout")
    one, two = (list(iter_heldout_batches(heldout, size, 1000)) for size in (3, 7))
    assert same(two[0], {name: torch.cat([part[name] for part in one]) for name in two[0]})


def test_timesteps_are_uniform_and_captions_dropped(train):
    batches = make_training_batches(train, 22, learning(0.3), 10)
    drawn = [batches(step) for step in range(40)]
    counts = torch.bincount(torch.cat([batch["timesteps"] for batch in drawn]), minlength=10)
    assert len(counts) == 10 and counts.min() > 50 and counts.max() < 130  # 88 each on average
    dropped = torch.cat([(batch["states"] == train.empty["text"]).flatten(1).all(1) for batch in drawn]).float().mean()
    assert 0.24 < dropped < 0.36


def test_sdxls_pooled_embedding_is_dropped_with_its_caption(xl_latents):
    train = LatentDataset(xl_latents, "train")
    for step in range(8):
        batch = make_training_batches(train, 3, learning(0.5), 1000)(step)
        assert batch["pooled"].shape == (3, POOLED) and batch["sizes"].shape == (3, 6)
        assert torch.equal((batch["states"] == 0).flatten(1).all(1), (batch["pooled"] == 0).all(1))
    held = next(iter_heldout_batches(LatentDataset(xl_latents, "heldout"), 3, 1000))
    assert (held["pooled"] != 0).any(1).all() and held["sizes"].shape == (3, 6)


def test_among_restricts_the_pairs(train):
    among = np.array([1, 4])
    allowed = train.get_batch(among)["text"]
    for step in range(5):
        for state in make_training_batches(train, 3, learning(0.0), 1000, among)(step)["states"]:
            assert any(torch.equal(state, text) for text in allowed)


def test_the_held_out_split_is_seen_once_with_fixed_noise(latents):
    heldout = LatentDataset(latents, "heldout")
    once, again = (list(iter_heldout_batches(heldout, 3, 1000)) for _ in range(2))
    assert [len(batch["latents"]) for batch in once] == [3, 3, 1]
    assert all(same(a, b) for a, b in zip(once, again, strict=True))
    times = torch.cat([batch["timesteps"] for batch in once])
    # The golden ratio's multiples: any prefix is spread over the whole range.
    assert times.tolist() == [309, 927, 545, 163, 781, 399, 17]
