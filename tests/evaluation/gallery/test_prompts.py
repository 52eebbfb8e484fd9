import torch

from prunella.evaluation.gallery.prompts import read_prompts
from prunella.latents.shards import Latents, write_manifest, write_shard


def test_prompts_are_a_seeded_choice_of_held_out_captions(latents):
    captions = Latents(latents, "heldout").captions
    chosen = read_prompts(latents, 5, seed=0)
    assert [prompt.number for prompt in chosen] == [0, 1, 2, 3, 4]
    assert all(captions[prompt.pair] == prompt.text for prompt in chosen)
    assert {(prompt.width, prompt.height) for prompt in chosen} == {(32, 32)}
    assert read_prompts(latents, 3, seed=0) == chosen[:3]
    pairs = [[prompt.pair for prompt in read_prompts(latents, 7, seed)] for seed in range(3)]
    assert all(sorted(each) == list(range(7)) for each in pairs) and len({tuple(each) for each in pairs}) == 3


def test_fewer_pairs_than_prompts_are_all_drawn(latents):
    assert len(read_prompts(latents, 100, seed=0)) == 7


def test_sizes_are_those_of_the_pairs_and_all_of_them_are_drawn(tmp_path):
    """The split lists its pairs by size; the first few are all of the first size, a random choice is not."""
    sizes = [(1024, 1024)] * 40 + [(1152, 896)] * 40 + [(640, 1536)] * 40
    encoded(tmp_path, sizes)
    chosen = read_prompts(tmp_path, 24, seed=0)
    assert {(prompt.width, prompt.height) for prompt in chosen} == set(sizes)
    assert all((prompt.width, prompt.height) == sizes[prompt.pair] for prompt in chosen)


def test_most_prompts_stay_when_a_pair_goes(tmp_path):
    encoded(tmp_path / "all", [(8, 8)] * 40)
    encoded(tmp_path / "fewer", [(8, 8)] * 39)
    before, after = ({p.text for p in read_prompts(tmp_path / name, 10, 0)} for name in ("all", "fewer"))
    assert len(before & after) >= 9


def test_tokens_in_place_of_embeddings_need_no_text_encoder(tmp_path):
    encoded(tmp_path, [(8, 8)] * 7, text="tokens")
    assert len(read_prompts(tmp_path, 7, 0)) == 7


def encoded(folder, sizes, text: str = "embeddings") -> None:
    """A held-out split with a shard for each size, as far as captions and sizes go."""
    folder.mkdir(exist_ok=True)
    shards = []
    for number, size in enumerate(dict.fromkeys(sizes)):
        captions = [f"caption {number} {i}" for i in range(sizes.count(size))]
        shards.append(write_shard(folder, "heldout", number, size, captions, {"mean": torch.zeros(len(captions), 1)}))
    write_manifest(folder, shards, {}, scaling_factor=1.0, text=text)
