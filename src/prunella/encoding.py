"""Encode: pictures and captions of the manifest to shards of raw latents and text embeddings."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prunella.errors import UserError
from prunella.latents.encoders import Encoders
from prunella.latents.shards import Writer
from prunella.params import Encode
from prunella.samples.pairs import Pair, chunks, read_manifest, reader, size_conditioning, squared


def encoded(params: Encode, seed: int, teacher: Path, manifest: Path, out: Path, device: str) -> dict:
    """Encode the pairs of `manifest` with the encoders of `teacher` into `out`; return the counts."""
    source, pairs = read_manifest(manifest)
    if len(pairs) <= params.heldout:
        raise UserError(
            f"encode.heldout: {params.heldout} pairs are to be held out, but only {len(pairs)} passed the filter"
        )
    encoders = Encoders(teacher, device, params.precision)
    multiple = encoders.factor * halved(teacher)
    if params.resolution % multiple:
        raise UserError(
            f"encode.resolution: {params.resolution} is no multiple of {multiple}, which this teacher needs"
        )
    picture = reader(source)
    writer, cut = Writer(out, params.shard_size), 0
    with tqdm(total=len(pairs), desc="encode", unit="pair", mininterval=1.0) as bar:
        for split, chosen in split_off(pairs, params.heldout, seed).items():
            for batch in chunks(chosen, params.batch_size):
                captions = [pair.text for pair in batch]
                writer.add(split, captions, _tensors(encoders, [picture(p.key) for p in batch], captions, params))
                cut += encoders.cut(captions)
                bar.update(len(batch))
    written = writer.close(encoders.empty(), scaling_factor=encoders.scaling_factor, resolution=params.resolution)
    size = sum(path.stat().st_size for path in out.iterdir())
    counts = {split: sum(counts) for split, counts in written["splits"].items()}
    return {**counts, "captions_cut": cut, "megabytes": round(size / 1e6, 1)}


def _tensors(encoders: Encoders, pictures: list, captions: list[str], params: Encode) -> dict[str, Tensor]:
    """What is stored of a batch; size conditioning where the teacher has pooled embeddings, as SDXL does."""
    mean, std = encoders.latents(np.stack([squared(picture, params.resolution) for picture in pictures]))
    text = encoders.text(captions)
    sizes = [size_conditioning(picture, params.resolution) for picture in pictures]
    return {"mean": mean, "std": std, **text} | ({"sizes": torch.tensor(sizes).float()} if "pooled" in text else {})


def halved(teacher: Path) -> int:
    """How many times smaller the teacher's UNet makes its latents on the way down."""
    return 2 ** (len(json.loads((teacher / "unet" / "config.json").read_text())["down_block_types"]) - 1)


def split_off(pairs: list[Pair], heldout: int, seed: int) -> dict[str, list[Pair]]:
    """The `heldout` pairs whose hash with the seed is smallest, and the rest; both in the manifest's order."""
    lots = [hashlib.sha256(f"{seed} {pair.key} {pair.text}".encode()).digest() for pair in pairs]
    chosen = set(sorted(range(len(pairs)), key=lots.__getitem__)[:heldout])
    return {
        "heldout": [pair for i, pair in enumerate(pairs) if i in chosen],
        "train": [pair for i, pair in enumerate(pairs) if i not in chosen],
    }
