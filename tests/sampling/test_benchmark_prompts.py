import pytest
import torch
from conftest import ROOT

from prunella.errors import UserError
from prunella.latents.shards import LatentDataset, write_manifest, write_shard
from prunella.sampling.benchmark_prompts import Prompt, read_prompt_file, select_heldout_prompts, select_prompts


def test_prompts_are_a_seeded_choice_of_held_out_captions(latents):
    captions = LatentDataset(latents, "heldout").captions
    chosen = select_heldout_prompts(latents, 5, seed=0)
    assert [prompt.number for prompt in chosen] == [0, 1, 2, 3, 4]
    assert all(captions[prompt.pair] == prompt.text for prompt in chosen)
    assert {(prompt.width, prompt.height) for prompt in chosen} == {(32, 32)}
    assert select_heldout_prompts(latents, 3, seed=0) == chosen[:3]
    pairs = [[prompt.pair for prompt in select_heldout_prompts(latents, 7, seed)] for seed in range(3)]
    assert all(sorted(each) == list(range(7)) for each in pairs) and len({tuple(each) for each in pairs}) == 3


def test_fewer_pairs_than_prompts_are_all_drawn(latents):
    assert len(select_heldout_prompts(latents, 100, seed=0)) == 7


def test_sizes_are_those_of_the_pairs_and_all_of_them_are_drawn(tmp_path):
    """The split lists its pairs by size; the first few are all of the first size, a random choice is not."""
    sizes = [(1024, 1024)] * 40 + [(1152, 896)] * 40 + [(640, 1536)] * 40
    encoded(tmp_path, sizes)
    chosen = select_heldout_prompts(tmp_path, 24, seed=0)
    assert {(prompt.width, prompt.height) for prompt in chosen} == set(sizes)
    assert all((prompt.width, prompt.height) == sizes[prompt.pair] for prompt in chosen)


def test_most_prompts_stay_when_a_pair_goes(tmp_path):
    encoded(tmp_path / "all", [(8, 8)] * 40)
    encoded(tmp_path / "fewer", [(8, 8)] * 39)
    before, after = ({p.text for p in select_heldout_prompts(tmp_path / name, 10, 0)} for name in ("all", "fewer"))
    assert len(before & after) >= 9


def test_tokens_in_place_of_embeddings_need_no_text_encoder(tmp_path):
    encoded(tmp_path, [(8, 8)] * 7, text="tokens")
    assert len(select_heldout_prompts(tmp_path, 7, 0)) == 7


def asked(params, latents, **changes) -> list[Prompt]:
    return select_prompts(params.benchmark.model_copy(update=changes), latents)


def test_by_default_a_picture_of_each_held_out_caption(params, latents):
    assert asked(params, latents) == select_heldout_prompts(latents, 3, params.benchmark.seed)


def test_more_seeds_keep_the_first_pictures(params, latents):
    once, thrice = asked(params, latents), asked(params, latents, seeds=3)
    assert thrice[:3] == once and [prompt.number for prompt in thrice] == list(range(9))
    assert [prompt.text for prompt in thrice] == [prompt.text for prompt in once] * 3


def test_each_prompt_in_every_size_or_in_one(params, tmp_path):
    encoded(tmp_path, [(8, 8)] * 5 + [(16, 4)] * 5)
    found = asked(params, tmp_path, size="every")
    assert len(found) == 6 and {(prompt.width, prompt.height) for prompt in found[:2]} == {(8, 8), (16, 4)}
    assert found[0].text == found[1].text and [prompt.number for prompt in found] == list(range(6))
    assert {(prompt.width, prompt.height) for prompt in asked(params, tmp_path, size=24)} == {(24, 24)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("own.txt", "a red heart\n\n  two stars, “blue”  \n"),
        ("own.jsonl", '{"prompt": "a red heart"}\n\n{"text": "two stars, “blue”", "width": 48}\n'),
        ("own.csv", 'file_name,text,width\na.jpg,a red heart,\nb.jpg,"two stars, “blue”",48\n'),
    ],
)
def test_prompts_of_a_file(name, text, params, latents, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = asked(params, latents, prompts_from="file", prompt_file=str(tmp_path / name))
    wide = 32 if name.endswith("txt") else 48
    assert found[:1] == asked(params, latents, prompts=1, prompts_from="file", prompt_file=str(tmp_path / name))
    assert found == [Prompt(0, "a red heart", 32, 32, None), Prompt(1, "two stars, “blue”", wide, 32, None)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"prompt": "a"}\n["b"]\n', r"line 2 is no JSON object"),
        ("a.jsonl", '{"promt": "a"}\n', r"line 1 has no prompt, text or caption"),
        ("a.csv", "file_name,title\na.jpg,b\n", r"line 2 has no prompt"),
        ("a.jsonl", '{"prompt": "a", "width": "wide"}\n', r"line 1: width and height"),
        ("a.txt", "\n \n", r"not one prompt"),
        ("a.pdf", "a\n", r"none of \.txt, \.jsonl, \.csv"),
    ],
)
def test_what_is_no_file_of_prompts_is_said_in_one_line(name, text, said, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_prompt_file(tmp_path / name, 32)
    with pytest.raises(UserError, match=r"prompt_file: .* cannot be read"):
        read_prompt_file(tmp_path / "none.txt", 32)


def test_the_shipped_prompts_are_those_of_published_cards():
    found = read_prompt_file(ROOT / "data" / "cards.jsonl", 512)
    assert len(found) >= 6 and all((prompt.width, prompt.height, prompt.pair) == (512, 512, None) for prompt in found)


def encoded(folder, sizes, text: str = "embeddings") -> None:
    """A held-out split with a shard for each size, as far as captions and sizes go."""
    folder.mkdir(exist_ok=True)
    shards = []
    for number, size in enumerate(dict.fromkeys(sizes)):
        captions = [f"caption {number} {i}" for i in range(sizes.count(size))]
        shards.append(write_shard(folder, "heldout", number, size, captions, {"mean": torch.zeros(len(captions), 1)}))
    write_manifest(folder, shards, {}, scaling_factor=1.0, text=text, resolution=8)
