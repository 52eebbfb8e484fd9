"""Filter: which pairs are used, and how many fell out at each criterion.

Criteria are tried in the order of CRITERIA, cheap ones before the picture is decoded; a pair is counted at the
first that it fails. `broken` is a picture that cannot be read.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from prunella.errors import UserError
from prunella.params import Filter
from prunella.samples import folder, scenes
from prunella.samples.pairs import Pair, write_manifest

CRITERIA = ("no_caption", "caption_short", "caption_long", "broken", "small", "aspect", "duplicate")


def filtered(params: Filter, seed: int, out: Path) -> dict:
    """Write the manifest of what passes to `out`; return {"source", "read", "kept", "fell": {criterion: count}}.

    Raises UserError when nothing is left, or when too many pictures are broken.
    """
    pairs, fell = [], Counter(dict.fromkeys(CRITERIA, 0))
    source = _source(params, seed)
    for pair, reason in _judged(params, seed):
        if reason:
            fell[reason] += 1
        else:
            pairs.append(pair)
    read = len(pairs) + fell.total()
    if read and fell["broken"] / read > params.max_broken:
        raise UserError(
            f"filter: {fell['broken']} of {read} pictures in {params.path} cannot be read, "
            f"more than filter.max_broken ({params.max_broken:g}) allows"
        )
    if not pairs:
        most = f"; most fell out at {fell.most_common(1)[0][0]} ({fell.most_common(1)[0][1]} of {read})" if read else ""
        raise UserError(f"filter: no pair of {params.path} is left{most}")
    pairs = _sampled(pairs, params.samples, seed)
    write_manifest(out, source, pairs)
    return {
        "source": params.source,
        "read": read,
        "passed": read - fell.total(),
        "kept": len(pairs),
        "fell": dict(fell),
    }


def _source(params: Filter, seed: int) -> dict:
    source = {"source": params.source, "path": params.path}
    if params.source == "scenes":
        scenes.read_vocabulary(params.path)
        source |= {"seed": seed, "sha256": hashlib.sha256(Path(params.path).read_bytes()).hexdigest()}
    return source


def _sampled(pairs: list[Pair], samples: int, seed: int) -> list[Pair]:
    if len(pairs) <= samples:
        return pairs
    chosen = np.sort(np.random.default_rng(seed).choice(len(pairs), samples, replace=False))
    return [pairs[i] for i in chosen]


def _judged(params: Filter, seed: int) -> Iterator[tuple[Pair | None, str | None]]:
    """Each pair with None, or with the criterion at which it fell."""
    if params.source == "scenes":
        vocabulary = scenes.read_vocabulary(params.path)
        for i in tqdm(range(params.samples), "filter", unit="pair", mininterval=1.0):
            text = scenes.captioned(vocabulary, seed, i)[0]
            pair = Pair(str(i), text, vocabulary.picture, vocabulary.picture, "")
            yield pair, _caption_fails(text, params) or _picture_fails(pair, params)
        return
    root, known = Path(params.path), set()
    for name, text in tqdm(list(folder.entries(root)), "filter", unit="pair", mininterval=1.0):
        if reason := _caption_fails(text, params):
            yield None, reason
            continue
        try:
            width, height = folder.read_picture(root / name).size
            content = hashlib.sha256((root / name).read_bytes()).hexdigest()
        except OSError:
            yield None, "broken"
            continue
        pair = Pair(name, text, width, height, content)
        reason = _picture_fails(pair, params) or ("duplicate" if content in known else None)
        known.add(content)
        yield pair, reason


def _caption_fails(text: str, params: Filter) -> str | None:
    length = len(text.strip())
    if not length:
        return "no_caption"
    return "caption_short" if length < params.min_caption else "caption_long" if length > params.max_caption else None


def _picture_fails(pair: Pair, params: Filter) -> str | None:
    short, long = sorted((pair.width, pair.height))
    return "small" if short < params.min_side else "aspect" if long > params.max_aspect * short else None
