import json

import pytest

from prunella.encoding import encoded, split_off
from prunella.errors import UserError
from prunella.latents.shards import Latents
from prunella.params import Encode
from prunella.samples.pairs import Pair


def changed(params, **changes) -> Encode:
    return params.encode.model_copy(update=changes)


def test_every_pair_is_in_one_split(latents, manifest):
    train, heldout = Latents(latents, "train"), Latents(latents, "heldout")
    assert (len(train), len(heldout)) == (22, 7)
    texts = [json.loads(line)["text"] for line in (manifest / "pairs.jsonl").read_text().splitlines()]
    assert sorted(train.captions + heldout.captions) == sorted(texts)
    assert json.loads((latents / "manifest.json").read_text())["splits"] == {"heldout": [7], "train": [10, 10, 2]}


def test_the_split_stays_when_pairs_are_added():
    pairs = [Pair(str(i), "text", 1, 1, "") for i in range(100)]
    first = split_off(pairs, 10, 0)["heldout"]
    assert len(first) == 10
    fewer = split_off(pairs[:90], 10, 0)["heldout"]
    assert len(set(first) & set(fewer)) >= 8  # only those held out among the ten removed are replaced
    assert split_off(pairs, 10, 0)["heldout"] == first != split_off(pairs, 10, 1)["heldout"]


def test_counts_are_reported(params, teacher, manifest, tmp_path):
    report = encoded(params.encode, params.seed, teacher, manifest, tmp_path / "out", "cpu")
    assert (report["train"], report["heldout"]) == (22, 7) and report["megabytes"] > 0
    assert report["captions_cut"] == sum(len(text.split()) > 17 for text in _texts(manifest))


def _texts(manifest) -> list[str]:
    # In the toy's tokenizer every word of a scene's caption is one token, as is each comma.
    lines = (manifest / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line)["text"].replace(",", " ,") for line in lines]


def test_more_held_out_than_there_are(params, teacher, manifest, tmp_path):
    with pytest.raises(UserError, match=r"encode.heldout: 29 pairs are to be held out, but only 29 passed the filter"):
        encoded(changed(params, heldout=29), 0, teacher, manifest, tmp_path / "out", "cpu")


def test_a_resolution_that_the_unet_cannot_halve(params, teacher, manifest, tmp_path):
    with pytest.raises(UserError, match=r"encode.resolution: 40 is no multiple of 32, which this teacher needs"):
        encoded(changed(params, resolution=40), 0, teacher, manifest, tmp_path / "out", "cpu")
