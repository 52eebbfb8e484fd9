"""Textual inversion through the whole training, and by stock diffusers afterwards."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TUNING
from safetensors.torch import load_file
from transformers import CLIPTokenizer
from tuning import PLAIN, tune

from prunella.errors import UserError
from prunella.latents.encoders import TOKENS, encode_tokens
from prunella.models.pipeline import load_pipeline
from prunella.params import Finetune, validate_config
from prunella.training.text_encoders import load_with_text_encoders
from prunella.training.textual_inversion import FILE, TABLES, PlaceholderToken
from prunella.training.trainable import TrainableState

STUDENT = {"sd": "pruned_tiny", "sdxl": "xl_teacher"}
LATENTS = {"sd": "token_latents", "sdxl": "xl_token_latents"}
PROMPT = "a large red ring on a white background"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def tuning(word: str | None = "red", vectors: int = 1, begin: str | None = None, **changes) -> Finetune:
    inversion = {"placeholder_token": word, "num_vectors": vectors, "initializer_token": begin}
    return validate_config(
        Finetune, TUNING | {"method": "inversion", "inversion": inversion} | PLAIN | changes, "finetune"
    )


def told(pipeline) -> list[torch.Tensor]:
    said = pipeline.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return [part for part in said if part is not None]


@pytest.mark.parametrize(("family", "vectors"), [("sd", 1), ("sd", 3), ("sdxl", 2)])
def test_the_words_embeddings_learn_alone_and_stock_diffusers_reads_them(request, tmp_path, family, vectors):
    student, latents = map(request.getfixturevalue, (STUDENT[family], LATENTS[family]))
    report = tune(tuning(vectors=vectors), latents, student, tmp_path)
    assert report["pairs"] == 22 and report["heldout"]["task"] > 0
    plain, whole, beside = load_pipeline(student), load_pipeline(tmp_path / "out"), load_pipeline(student)
    file = load_file(tmp_path / "out" / FILE)
    for name in TOKENS if family == "sdxl" else ["text_encoder"]:
        encoder, tokenizer = getattr(beside, name), getattr(beside, name.replace("text_encoder", "tokenizer"))
        rows = file["red" if family == "sd" else TABLES[name]]
        beside.load_textual_inversion(rows, token="red", text_encoder=encoder, tokenizer=tokenizer)
        before, after = (getattr(each, name).get_input_embeddings().weight for each in (plain, whole))
        assert torch.equal(before, after[: len(before)]) and len(after) == len(before) + vectors == len(whole.tokenizer)
        assert torch.equal(after[len(before) :], rows) and not torch.equal(rows[0], before.mean(0))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(told(whole), told(beside), strict=True))
    assert not torch.equal(told(whole)[0], told(plain)[0])
    assert torch.equal(plain.unet.conv_in.weight, whole.unet.conv_in.weight)
    (state,) = (tmp_path / "work" / "finetune").glob("*/step-*.pt")
    kept = torch.load(state, weights_only=True)["model"]
    assert {name for name in kept if not name.endswith("position_ids")} == {
        f"encoders.{name}.{where}.rows" for name, where in tables(student).items()
    }
    assert whole(PROMPT, num_inference_steps=1, height=32, width=32).images[0].size == (32, 32)


def tables(student) -> dict[str, str]:
    """Where each text encoder has its embeddings."""
    pipeline = load_pipeline(student)
    encoders = {name: part for name in TOKENS if (part := getattr(pipeline, name, None)) is not None}
    return {
        name: next(at for at, module in part.named_modules() if module is part.get_input_embeddings())
        for name, part in encoders.items()
    }


@pytest.fixture
def word(pruned_tiny):
    """A word that the tokenizer cuts into several pieces, with two tokens of its own."""
    speaks = load_with_text_encoders(load_pipeline(pruned_tiny).unet, pruned_tiny, "cpu")
    return PlaceholderToken(tuning("zqx", vectors=2).inversion, speaks, pruned_tiny), speaks


def test_the_words_tokens_stand_in_place_of_its_pieces(word, pruned_tiny):
    tokenizer, (its, _) = CLIPTokenizer.from_pretrained(pruned_tiny / "tokenizer"), word
    pieces = tokenizer("zqx", add_special_tokens=False).input_ids
    one, two = its.tokens["text_encoder"]
    assert (one, two) == (len(tokenizer), len(tokenizer) + 1) and len(pieces) > 2
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    start, ring = tokenizer("ring").input_ids[:2]  # a word of one token
    row = [start, *pieces, ring, *pieces, end, pad]
    made = its.replace_tokens({"tokens": torch.tensor([row], dtype=torch.int32)})["tokens"]
    assert made.dtype == torch.int32 and made.tolist() == [
        [start, one, two, ring, one, two, end, pad, *[pad] * (2 * len(pieces) - 4)]
    ]
    full = torch.tensor([[start, *pieces, end]])  # which leaves room
    assert its.replace_tokens({"tokens": full})["tokens"].tolist() == [
        [start, one, two, end, *[pad] * (len(pieces) - 2)]
    ]


def test_the_word_inside_another_is_not_the_word(word, pruned_tiny):
    """`sks` stands in "masks" and "tasks"; here `zqx` in "azqx", in captions to train on and in the saved tokenizer."""
    plain, (its, _) = CLIPTokenizer.from_pretrained(pruned_tiny / "tokenizer"), word
    saved, tokens = its.tokenizers["tokenizer"], its.tokens["text_encoder"]
    inside = plain("azqx ring", padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(its.replace_tokens({"tokens": inside})["tokens"], inside)
    assert tokens[0] not in saved("azqx ring").input_ids and tokens[0] in saved("a zqx ring").input_ids
    alone = plain("a zqx ring", padding="max_length", return_tensors="pt").input_ids
    assert its.replace_tokens({"tokens": alone})["tokens"][0].tolist().count(tokens[0]) == 1


def test_sdxl_pools_at_the_end_of_the_text_and_not_at_the_word(xl_teacher, tmp_path):
    """With `eos_token_id: 2`, as Stability has it, transformers pools at the largest token number: the word's."""
    student = Path(shutil.copytree(xl_teacher, tmp_path / "student"))
    config = student / "text_encoder_2" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": 2}))
    speaks = load_with_text_encoders(load_pipeline(student).unet, student, "cpu")
    its = PlaceholderToken(tuning("zqx").inversion, speaks, student)
    captions = [f"a zqx {shape}" for shape in ("ring", "heart")]
    tokens = {
        kind: its.tokenizers[name](captions, padding="max_length", return_tensors="pt").input_ids
        for name, kind in (("tokenizer", "tokens"), ("tokenizer_2", "tokens_2"))
    }
    with torch.no_grad():
        pooled = encode_tokens(dict(speaks.encoders.items()), tokens)["pooled"]
    assert (pooled[0] - pooled[1]).abs().max() > 1e-2
    assert its.merge_components(dict(speaks.encoders.items()))["text_encoder_2"].config.eos_token_id != 2


def test_a_caption_that_the_words_tokens_make_too_long_is_cut_before_its_end(pruned_tiny):
    speaks = load_with_text_encoders(load_pipeline(pruned_tiny).unet, pruned_tiny, "cpu")
    its = PlaceholderToken(tuning(vectors=3).inversion, speaks, pruned_tiny)
    tokenizer, tokens = its.tokenizers["tokenizer"], its.tokens["text_encoder"]
    start = tokenizer.bos_token_id
    row = torch.tensor([[start, *its.initial_tokens["text_encoder"], 5, tokenizer.eos_token_id]])
    assert its.replace_tokens({"tokens": row})["tokens"].tolist() == [
        [start, tokens[0], tokens[1], tokenizer.eos_token_id]
    ]


def test_the_word_begins_as_the_mean_of_its_pieces_or_as_another(word, pruned_tiny):
    (its, speaks), known = word, load_pipeline(pruned_tiny).text_encoder.get_input_embeddings().weight
    rows = speaks.encoders["text_encoder"].get_input_embeddings().rows
    assert torch.allclose(rows, known[its.initial_tokens["text_encoder"]].mean(0).expand(2, -1))
    assert TrainableState(speaks).count() == rows.numel()
    other = load_with_text_encoders(load_pipeline(pruned_tiny).unet, pruned_tiny, "cpu")
    PlaceholderToken(tuning("zqx", begin="ring").inversion, other, pruned_tiny)
    (ring,) = CLIPTokenizer.from_pretrained(pruned_tiny / "tokenizer")("ring", add_special_tokens=False).input_ids
    assert torch.equal(other.encoders["text_encoder"].get_input_embeddings().rows[0], known[ring])


def test_words_that_cannot_be_learned(token_latents, latents, pruned_tiny, tmp_path):
    with pytest.raises(UserError, match=r"finetune\.inversion\.placeholder_token: none of 22 captions holds 'sks'"):
        tune(tuning("sks"), token_latents, pruned_tiny, tmp_path)
    with pytest.raises(UserError, match=r"holds text embeddings, .* need tokens; encode\.text"):
        tune(tuning(), latents, pruned_tiny, tmp_path)
    with pytest.raises(UserError, match=r"inversion\.placeholder_token: missing; the token for the subject"):
        tuning(None)
    with pytest.raises(UserError, match=r"inversion\.placeholder_token: string should match"):
        tuning("two words")
    speaks = load_with_text_encoders(load_pipeline(pruned_tiny).unet, pruned_tiny, "cpu")
    with pytest.raises(
        UserError, match=r"finetune\.inversion\.placeholder_token: 'a' is a token of .*tokenizer already"
    ):
        PlaceholderToken(tuning("a").inversion, speaks, pruned_tiny)
