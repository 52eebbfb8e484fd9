"""Batches of noised examples from encoded pairs: for training by number, for measuring on the held-out split.

All that is random about an example is drawn by seed and by its place in line, so that a batch is the same however it
is cut: into one or several processes, into one or several passes. Two students see the same noise and timesteps.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor

from prunella.compute.distributed import shard_for_rank
from prunella.compute.seeds import CAPTION, HELDOUT, MIRROR, TRAINING, make_generator
from prunella.latents.shards import Latents
from prunella.params import DiffusionTraining
from prunella.training.objectives import sampled
from prunella.training.sampler import Windows, grouped, line, parted

PRIOR, REHEARSAL = "prior", "rehearsal"  # pairs beside those that are learned: of a thing's class, of the main data
SEEDS = {PRIOR: 1, REHEARSAL: 2}  # how far their seeds are from the training's
BEHIND = 8  # batches that threads and other processes may be behind: their shards are held as well
MOST_WINDOWS = 3  # whose shards are held at a time: the one before for BEHIND batches, this one, and the next


class Batch(dict[str, Tensor]):
    """Tensors of N examples by name.

    "latents" and "noise" (NCHW), "timesteps" (N), "states" (NLD, text embeddings), "pairs" (N, indices in the split);
    for SDXL also "pooled" (NP, text embedding) and "sizes" (N6, size conditioning). Where text encoders learn, "tokens"
    (NL), of SDXL also "tokens_2", and "dropped" (N) in place of the embeddings. While training "share", a number: how
    much of the training is done.
    """

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "Batch":
        """The same on another device; but "pairs", which nothing computes with, stay where they can be read."""
        return Batch(
            {
                name: value if name == "pairs" else value.to(device, non_blocking=non_blocking)
                for name, value in self.items()
            }
        )

    @property
    def examples(self) -> int:
        """N."""
        return len(next(iter(self.values())))

    def cut(self, most: int | None) -> "list[Batch]":
        """Parts of at most `most` examples, in order; the whole where that is None."""
        starts = range(0, self.examples, most or self.examples)
        return [Batch({name: value[at : at + starts.step] for name, value in self.items()}) for at in starts]

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory."""
        return Batch({name: value.pin_memory() for name, value in self.items()})


def training_batches(
    latents: Latents, batch_size: int, settings: DiffusionTraining, last: int, among: np.ndarray | None = None
) -> Callable[[int], Batch]:
    """number → batch, with timesteps uniform below `last`; `among` restricts it to some pairs.

    With `shuffle_shards` pairs are mixed among so many shards at a time, which are read ahead.
    Pictures of several sizes are never in one batch; of several captions one is drawn each time, and where pictures are
    stored mirrored too, one of the two. A caption is replaced
    by the empty one with probability `caption_dropout`, which guidance at drawing needs. With `noise_offset` each
    channel's noise is shifted as a whole (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
    """
    among = np.arange(len(latents)) if among is None else among
    groups = latents.groups(among)
    if settings.shuffle_shards:
        chosen = _in_windows(latents, groups, settings)
    else:
        latents.expect(among)
        chosen = partial(_anywhere, groups, settings)

    def batch(number: int) -> Batch:
        places = line(number, batch_size)
        sources = [make_generator(TRAINING, settings.seed, place) for place in places.tolist()]
        pairs = chosen(places)
        captions = _lots(CAPTION, settings.seed, places) if latents.several else None
        mirror = _lots(MIRROR, settings.seed, places) < 0.5 if latents.mirrored else None
        rows = latents.take(pairs, captions, mirror)
        final, noise = _noised(rows, sources, latents.scaling_factor)
        draws = torch.stack([torch.rand(2, generator=source, dtype=torch.float64) for source in sources])
        dropped = draws[:, 0] < settings.caption_dropout
        if settings.noise_offset:
            shifts = torch.stack([torch.randn(final.shape[1], generator=source) for source in sources])
            noise = noise + settings.noise_offset * shifts[:, :, None, None]
        return Batch(
            {
                "pairs": torch.from_numpy(pairs),
                "latents": final,
                "noise": noise,
                "timesteps": (draws[:, 1] * last).long(),
                **_said(rows, dropped, latents),
            }
        )

    return batch


def _anywhere(groups: list[np.ndarray], settings: DiffusionTraining, places: np.ndarray) -> np.ndarray:
    return grouped(places, groups, settings.batch_size, settings.seed)


def _in_windows(
    latents: Latents, groups: list[np.ndarray], settings: DiffusionTraining
) -> Callable[[np.ndarray], np.ndarray]:
    """places → pairs, mixed among a few shards at a time; the shards of the next window are opened ahead.

    Shards that are neither of this window nor opened ahead are let go.
    """
    together, unit, seed = settings.shuffle_shards, settings.batch_size, settings.seed
    assert together
    groups = [np.sort(group) for group in groups]  # a shard's pairs beside one another
    shards, counts = zip(*(np.unique(latents.shard_of(group), return_counts=True) for group in groups), strict=True)
    windows = [Windows(tuple(each.tolist()), together) for each in counts]
    ahead = -(-together * max(int(each.max()) for each in counts) // unit) * unit
    sizes, held = tuple(map(len, groups)), dict[int, set[int]]()
    latents.expect(np.concatenate(groups), sum(min(len(each), MOST_WINDOWS * together) for each in shards))

    def chosen(places: np.ndarray) -> np.ndarray:
        now, later = (grouped(each, groups, unit, seed, windows) for each in (places, places + ahead))
        if latents.far:
            for group, _, inside in parted(places, sizes, unit, seed):
                first, last = int(inside.min()) - BEHIND * unit, int(inside.max()) + ahead
                held[group] = set(shards[group][sorted(windows[group].between(first, last, seed, group))].tolist())
            latents.hold(set().union(*held.values()))
        latents.open_ahead(later)
        return now

    return chosen


def beside(batch: Mapping[str, Tensor], kind: str) -> Batch:
    """The pairs that `with_others` has put beside as `kind`; {} where there are none."""
    start = f"{kind}/"
    return Batch({name.removeprefix(start): value for name, value in batch.items() if name.startswith(start)})


def with_others(
    batches: Callable[[int], Batch],
    others: Mapping[str, Latents],
    batch_size: int,
    settings: DiffusionTraining,
    last: int,
) -> Callable[[int], Batch]:
    """The batches, each with as many pairs of each of `others` (PRIOR, REHEARSAL) beside it.

    Their chance is their own, so the batches themselves are what they are without them.
    """

    def of(kind: str) -> Callable[[int], Batch]:
        own = settings.model_copy(update={"seed": (settings.seed + SEEDS[kind]) % 2**32})
        return training_batches(others[kind], batch_size, own, last)

    sources = {kind: of(kind) for kind in others}

    def batch(number: int) -> Batch:
        more = {kind: source(number) for kind, source in sources.items()}
        named = {f"{kind}/{name}": value for kind, pairs in more.items() for name, value in pairs.items()}
        return Batch(batches(number) | named)

    return batch


def heldout_batches(
    latents: Latents, batch_size: int, last: int, among: np.ndarray | None = None, *, shared: bool = False
) -> Iterator[Batch]:
    """The held-out split (or the pairs `among` it) once, each pair with its fixed noise and timestep below `last`.

    Where they are `shared`, of several processes each has some of these batches.
    """
    among = np.arange(len(latents)) if among is None else among
    every = _cut(latents, among, batch_size)
    for pairs, places in shard_for_rank(every) if shared else every:
        rows = latents.take(pairs)
        final, noise = _noised(
            rows, [make_generator(HELDOUT, place) for place in places.tolist()], latents.scaling_factor
        )
        # The golden ratio spreads timesteps evenly over any prefix of the split.
        share = np.modf((places + 0.5) * 0.6180339887)[0]
        yield Batch(
            {
                "pairs": torch.from_numpy(pairs),
                "latents": final,
                "noise": noise,
                "timesteps": torch.from_numpy((share * last).astype(np.int64)),
                **_said(rows, torch.zeros(len(final), dtype=torch.bool), latents),
            }
        )


def _lots(purpose: int, seed: int, places: np.ndarray) -> np.ndarray:
    """What is drawn at each place for a purpose (which caption, say), as a number from 0 to 1."""
    return np.array([torch.rand(1, generator=make_generator(purpose, seed, place)).item() for place in places.tolist()])


def _cut(latents: Latents, among: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, places in line) of batches of one size of pictures each."""
    place = 0
    for group in latents.groups(among):
        for start in range(0, len(group), batch_size):
            pairs = group[start : start + batch_size]
            yield pairs, np.arange(place, place + len(pairs))
            place += len(pairs)


def _noised(rows: dict[str, Tensor], sources: list[torch.Generator], scaling_factor: float) -> tuple[Tensor, Tensor]:
    """Final latents and noise (NCHW each), example by example from its own source."""
    each = zip(rows["mean"], rows["std"], sources, strict=True)
    final = torch.stack([sampled(mean, std, source, scaling_factor) for mean, std, source in each])
    return final, torch.stack([torch.randn(final.shape[1:], generator=source) for source in sources])


def _said(rows: dict[str, Tensor], dropped: Tensor, latents: Latents) -> dict[str, Tensor]:
    """What the captions say, and of no caption where it is `dropped`: "states", of SDXL also "pooled", and "sizes".

    Where text encoders learn, the tokens as they are, and "dropped" (N) for the encoders to heed.
    """
    sizes = {"sizes": rows["sizes"]} if "sizes" in rows else {}
    if tokens := {name: rows[name] for name in ("tokens", "tokens_2") if name in rows}:
        return tokens | {"dropped": dropped} | sizes
    said = {"states": torch.where(dropped[:, None, None], latents.empty["text"], rows["text"])}
    if "pooled" in rows:
        said["pooled"] = torch.where(dropped[:, None], latents.empty["pooled"], rows["pooled"])
    return said | sizes
