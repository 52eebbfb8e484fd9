"""The requested images: held-out captions, a seeded choice, or the prompts of a file; in which sizes, and how often
each."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunella.errors import UserError
from prunella.params import Benchmark

TEXT_FIELDS = ("prompt", "text", "caption")  # names of the field that holds a prompt
PROMPT_SUFFIXES = (".txt", ".jsonl", ".csv")
Size = tuple[int, int]  # width and height in pixels


class Prompt(NamedTuple):
    """A picture to draw. Its number decides its noise; `pair` is the held-out pair that its caption is of, if any."""

    number: int
    text: str
    width: int  # pixels
    height: int
    pair: int | None


def select_prompts(params: Benchmark, latents_dir: Path) -> list[Prompt]:
    """Every picture that the benchmark draws, as `params` ask for it; `latents_dir` is the encoded folder.

    The first of a prompt's `seeds` pictures has the number that it has alone, so asking for more changes none.
    """
    file, from_file = Path(params.prompt_file), params.prompts_from == "file"
    all_prompts = (
        read_prompt_file(file, _read_resolution(latents_dir))
        if from_file
        else select_heldout_prompts(latents_dir, params.prompts, params.seed)
    )
    selected = all_prompts[: params.prompts]
    with_sizes = [
        prompt._replace(width=w, height=h) for prompt in selected for w, h in _image_sizes(params, latents_dir, prompt)
    ]
    with_numbers = [prompt._replace(number=number) for number, prompt in enumerate(with_sizes)]
    number_ranges = (range(len(with_numbers) * seed, len(with_numbers) * (seed + 1)) for seed in range(params.seeds))
    return [
        prompt._replace(number=number)
        for numbers in number_ranges
        for number, prompt in zip(numbers, with_numbers, strict=True)
    ]


def select_heldout_prompts(latents_dir: Path, count: int, seed: int) -> list[Prompt]:
    """`count` held-out captions (all, where there are fewer) in a seeded random order, each in its pair's size.

    The order is by a hash of seed, caption and how often the caption came before, so most prompts stay when the
    held-out pairs change a little.
    """
    heldout = _open_heldout(latents_dir)
    sizes = np.concatenate([np.tile(shard.size, (shard.pairs, 1)) for shard in heldout.shards])
    occurrences: dict[str, int] = {}
    keys = []
    for caption in heldout.captions:
        occurrences[caption] = occurrences.get(caption, 0) + 1
        keys.append(hashlib.sha256(f"{seed} {occurrences[caption]} {caption}".encode()).digest())
    order = sorted(range(len(keys)), key=keys.__getitem__)[:count]
    widths, heights = sizes[:, 0].tolist(), sizes[:, 1].tolist()
    return [Prompt(i, heldout.captions[index], widths[index], heights[index], index) for i, index in enumerate(order)]


def read_prompt_file(file: Path, default_size: int) -> list[Prompt]:
    """The prompts of a file, in its order: of .txt a line each, of .jsonl and .csv the field prompt, text or caption.

    They are `default_size` pixels wide and high, or as the fields width and height say. Raises UserError where there
    is none.
    """
    if file.suffix not in PROMPT_SUFFIXES:
        raise UserError(f"benchmark.prompt_file: {file} is none of {', '.join(PROMPT_SUFFIXES)}")
    prompts: list[Prompt] = []
    for line, row in iter_prompt_rows(file):
        texts = [row[name] for name in TEXT_FIELDS if row.get(name)]
        if not texts or not isinstance(texts[0], str):
            raise UserError(f"{file}: line {line} has no {', '.join(TEXT_FIELDS[:-1])} or {TEXT_FIELDS[-1]}")
        try:
            size = [int(row.get(name) or default_size) for name in ("width", "height")]
        except (TypeError, ValueError):
            raise UserError(f"{file}: line {line}: width and height are numbers of pixels") from None
        prompts.append(Prompt(len(prompts), texts[0], size[0], size[1], None))
    if not prompts:
        raise UserError(f"{file}: not one prompt is there (benchmark.prompt_file)")
    return prompts


def iter_prompt_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, fields) of every line that holds something."""
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"benchmark.prompt_file: {file} cannot be read: {error}") from None
    if file.suffix == ".csv":
        yield from enumerate(csv.DictReader(content.splitlines()), 2)
        return
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield (
                number,
                {"prompt": line.strip()} if file.suffix == ".txt" else _parse_prompt_object(file, number, line),
            )


def _parse_prompt_object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f'{file}: line {number} is no JSON object such as {{"prompt": "a red heart"}}')
    return row


def _image_sizes(params: Benchmark, latents_dir: Path, prompt: Prompt) -> list[Size]:
    if params.size == "own":
        return [(prompt.width, prompt.height)]
    if params.size == "every":
        return list(dict.fromkeys((shard.size[0], shard.size[1]) for shard in _open_heldout(latents_dir).shards))
    return [(params.size, params.size)]


def _read_resolution(latents_dir: Path) -> int:
    from prunella.latents.shards import read_manifest

    return int(read_manifest(latents_dir)["resolution"])


def _open_heldout(latents_dir: Path) -> Any:
    from prunella.latents.shards import LatentDataset  # torch, which what only reads a gallery does without

    return LatentDataset(latents_dir, "heldout", texts=_reject_tokens)


def _reject_tokens(tokens: dict) -> dict:
    raise AssertionError("prompts are chosen by their captions alone")
