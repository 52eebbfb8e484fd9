"""What is drawn: held-out captions, a seeded choice, or the prompts of a file; in which sizes, and how often each."""

import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from prunella.errors import UserError
from prunella.params import Benchmark

TEXT = ("prompt", "text", "caption")  # names of the field that holds a prompt
KINDS = (".txt", ".jsonl", ".csv")
Size = tuple[int, int]  # width and height in pixels


class Prompt(NamedTuple):
    """A picture to draw. Its number decides its noise; `pair` is the held-out pair that its caption is of, if any."""

    number: int
    text: str
    width: int  # pixels
    height: int
    pair: int | None


def asked_prompts(params: Benchmark, latents: Path) -> list[Prompt]:
    """Every picture that the benchmark draws, as `params` ask for it; `latents` is the encoded folder.

    The first of a prompt's `seeds` pictures has the number that it has alone, so asking for more changes none.
    """
    file, own = Path(params.prompt_file), params.prompts_from == "file"
    every = file_prompts(file, _resolution(latents)) if own else read_prompts(latents, params.prompts, params.seed)
    chosen = every[: params.prompts]
    sized = [prompt._replace(width=w, height=h) for prompt in chosen for w, h in _sizes(params, latents, prompt)]
    numbered = [prompt._replace(number=number) for number, prompt in enumerate(sized)]
    again = (range(len(numbered) * seed, len(numbered) * (seed + 1)) for seed in range(params.seeds))
    return [
        prompt._replace(number=number) for numbers in again for number, prompt in zip(numbers, numbered, strict=True)
    ]


def read_prompts(latents: Path, count: int, seed: int) -> list[Prompt]:
    """`count` held-out captions (all, where there are fewer) in a seeded random order, each in its pair's size.

    The order is by a hash of seed, caption and how often the caption came before, so most prompts stay when the
    held-out pairs change a little.
    """
    heldout = _heldout(latents)
    sizes = np.concatenate([np.tile(shard.size, (shard.pairs, 1)) for shard in heldout.shards])
    seen: dict[str, int] = {}
    keys = []
    for caption in heldout.captions:
        seen[caption] = seen.get(caption, 0) + 1
        keys.append(hashlib.sha256(f"{seed} {seen[caption]} {caption}".encode()).digest())
    chosen = sorted(range(len(keys)), key=keys.__getitem__)[:count]
    wide, high = sizes[:, 0].tolist(), sizes[:, 1].tolist()
    return [Prompt(i, heldout.captions[pair], wide[pair], high[pair], pair) for i, pair in enumerate(chosen)]


def file_prompts(file: Path, side: int) -> list[Prompt]:
    """The prompts of a file, in its order: of .txt a line each, of .jsonl and .csv the field prompt, text or caption.

    They are `side` pixels wide and high, or as the fields width and height say. Raises UserError where there is none.
    """
    if file.suffix not in KINDS:
        raise UserError(f"benchmark.prompt_file: {file} is none of {', '.join(KINDS)}")
    found: list[Prompt] = []
    for line, row in rows(file):
        texts = [row[name] for name in TEXT if row.get(name)]
        if not texts or not isinstance(texts[0], str):
            raise UserError(f"{file}: line {line} has no {', '.join(TEXT[:-1])} or {TEXT[-1]}")
        try:
            size = [int(row.get(name) or side) for name in ("width", "height")]
        except (TypeError, ValueError):
            raise UserError(f"{file}: line {line}: width and height are numbers of pixels") from None
        found.append(Prompt(len(found), texts[0], size[0], size[1], None))
    if not found:
        raise UserError(f"{file}: not one prompt is there (benchmark.prompt_file)")
    return found


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line, fields) of every line that holds something."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"benchmark.prompt_file: {file} cannot be read: {error}") from None
    if file.suffix == ".csv":
        yield from enumerate(csv.DictReader(text.splitlines()), 2)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, {"prompt": line.strip()} if file.suffix == ".txt" else _object(file, number, line)


def _object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise UserError(f'{file}: line {number} is no JSON object such as {{"prompt": "a red heart"}}')
    return row


def _sizes(params: Benchmark, latents: Path, prompt: Prompt) -> list[Size]:
    if params.size == "own":
        return [(prompt.width, prompt.height)]
    if params.size == "every":
        return list(dict.fromkeys((shard.size[0], shard.size[1]) for shard in _heldout(latents).shards))
    return [(params.size, params.size)]


def _resolution(latents: Path) -> int:
    from prunella.latents.shards import read_manifest

    return int(read_manifest(latents)["resolution"])


def _heldout(latents: Path) -> Any:
    from prunella.latents.shards import Latents  # torch, which what only reads a gallery does without

    return Latents(latents, "heldout", texts=_unread)


def _unread(tokens: dict) -> dict:
    raise AssertionError("prompts are chosen by their captions alone")
