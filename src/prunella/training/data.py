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
from prunella.latents.shards import LatentDataset
from prunella.params import DiffusionTraining
from prunella.training.objectives import sample_latents
from prunella.training.sampler import Windows, batch_positions, partition_by_bucket, sample_by_bucket

PRIOR, REHEARSAL = "prior", "rehearsal"  # pairs beside those that are learned: of a thing's class, of the main data
SEED_OFFSETS = {PRIOR: 1, REHEARSAL: 2}  # how far their seeds are from the training's
MAX_LAG = 8  # batches that threads and other processes may be behind: their shards are held as well
MAX_OPEN_WINDOWS = 3  # whose shards are held at a time: the one before for BEHIND batches, this one, and the next


class Batch(dict[str, Tensor]):
    """Tensors of N examples by name.

    "latents" and "noise" (NCHW), "timesteps" (N), "states" (NLD, text embeddings), "pairs" (N, indices in the split);
    for SDXL also "pooled" (NP, text embedding) and "sizes" (N6, size conditioning). With text encoders that learn,
    "tokens" (NL), of SDXL also "tokens_2", and "dropped" (N) in place of the embeddings. While training "share", a
    number: how much of the training is done.
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
    def num_examples(self) -> int:
        """N."""
        return len(next(iter(self.values())))

    def split(self, max_examples: int | None) -> "list[Batch]":
        """Parts of at most `max_examples` examples, in order; the whole where that is None."""
        starts = range(0, self.num_examples, max_examples or self.num_examples)
        return [Batch({name: value[at : at + starts.step] for name, value in self.items()}) for at in starts]

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory."""
        return Batch({name: value.pin_memory() for name, value in self.items()})


def make_training_batches(
    latents: LatentDataset,
    batch_size: int,
    settings: DiffusionTraining,
    num_train_timesteps: int,
    indices: np.ndarray | None = None,
) -> Callable[[int], Batch]:
    """number → batch, with timesteps uniform below `num_train_timesteps`; `indices` restricts it to some pairs.

    With `shuffle_shards` pairs are mixed among so many shards at a time, which are read ahead.
    Pictures of several sizes are never in one batch; of several captions one is drawn each time, and where pictures are
    stored mirrored too, one of the two. A caption is replaced
    by the empty one with probability `caption_dropout`, which guidance at drawing needs. With `noise_offset` each
    channel's noise is shifted as a whole (https://www.crosslabs.org/blog/diffusion-with-offset-noise).
    """
    indices = np.arange(len(latents)) if indices is None else indices
    groups = latents.by_size(indices)
    if settings.shuffle_shards:
        choose_pairs = _make_windowed_choice(latents, groups, settings)
    else:
        latents.reserve(indices)
        choose_pairs = partial(_choose_shuffled, groups, settings)

    def make_batch(number: int) -> Batch:
        positions = batch_positions(number, batch_size)
        generators = [make_generator(TRAINING, settings.seed, place) for place in positions.tolist()]
        pairs = choose_pairs(positions)
        caption_draws = draw_uniform(CAPTION, settings.seed, positions) if latents.has_several_captions else None
        mirror = draw_uniform(MIRROR, settings.seed, positions) < 0.5 if latents.has_mirrored else None
        rows = latents.get_batch(pairs, caption_draws, mirror)
        latent_samples, noise = _sample_latents_and_noise(rows, generators, latents.scaling_factor)
        draws = torch.stack([torch.rand(2, generator=source, dtype=torch.float64) for source in generators])
        dropped = draws[:, 0] < settings.caption_dropout
        if settings.noise_offset:
            shifts = torch.stack([torch.randn(latent_samples.shape[1], generator=source) for source in generators])
            noise = noise + settings.noise_offset * shifts[:, :, None, None]
        return Batch(
            {
                "pairs": torch.from_numpy(pairs),
                "latents": latent_samples,
                "noise": noise,
                "timesteps": (draws[:, 1] * num_train_timesteps).long(),
                **_make_conditioning(rows, dropped, latents),
            }
        )

    return make_batch


def _choose_shuffled(groups: list[np.ndarray], settings: DiffusionTraining, positions: np.ndarray) -> np.ndarray:
    return sample_by_bucket(positions, groups, settings.batch_size, settings.seed)


def _make_windowed_choice(
    latents: LatentDataset, groups: list[np.ndarray], settings: DiffusionTraining
) -> Callable[[np.ndarray], np.ndarray]:
    """places → pairs, mixed among a few shards at a time; the shards of the next window are opened ahead.

    Shards that are neither of this window nor opened ahead are let go.
    """
    shards_at_once, unit, seed = settings.shuffle_shards, settings.batch_size, settings.seed
    assert shards_at_once
    groups = [np.sort(group) for group in groups]  # a shard's pairs beside one another
    shards, counts = zip(*(np.unique(latents.shard_of(group), return_counts=True) for group in groups), strict=True)
    windows = [Windows(tuple(each.tolist()), shards_at_once) for each in counts]
    prefetch_distance = -(-shards_at_once * max(int(each.max()) for each in counts) // unit) * unit
    sizes, open_shards = tuple(map(len, groups)), dict[int, set[int]]()
    latents.reserve(np.concatenate(groups), sum(min(len(each), MAX_OPEN_WINDOWS * shards_at_once) for each in shards))

    def choose_pairs(positions: np.ndarray) -> np.ndarray:
        current, upcoming = (
            sample_by_bucket(each, groups, unit, seed, windows) for each in (positions, positions + prefetch_distance)
        )
        if latents.is_remote:
            for group, _, inside in partition_by_bucket(positions, sizes, unit, seed):
                first, last = int(inside.min()) - MAX_LAG * unit, int(inside.max()) + prefetch_distance
                open_shards[group] = set(
                    shards[group][sorted(windows[group].shards_between(first, last, seed, group))].tolist()
                )
            latents.keep_open(set().union(*open_shards.values()))
        latents.prefetch(upcoming)
        return current

    return choose_pairs


def auxiliary_batch(batch: Mapping[str, Tensor], kind: str) -> Batch:
    """The pairs that `add_auxiliary_batches` has put beside as `kind`; {} where there are none."""
    prefix = f"{kind}/"
    return Batch({name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)})


def add_auxiliary_batches(
    batches: Callable[[int], Batch],
    auxiliary: Mapping[str, LatentDataset],
    batch_size: int,
    settings: DiffusionTraining,
    num_train_timesteps: int,
) -> Callable[[int], Batch]:
    """The batches, each with as many pairs of each of `auxiliary` (PRIOR, REHEARSAL) beside it.

    Their chance is their own, so the batches themselves are what they are without them.
    """

    def make_source(kind: str) -> Callable[[int], Batch]:
        own = settings.model_copy(update={"seed": (settings.seed + SEED_OFFSETS[kind]) % 2**32})
        return make_training_batches(auxiliary[kind], batch_size, own, num_train_timesteps)

    sources = {kind: make_source(kind) for kind in auxiliary}

    def make_batch(number: int) -> Batch:
        auxiliary_batches = {kind: source(number) for kind, source in sources.items()}
        named = {f"{kind}/{name}": value for kind, pairs in auxiliary_batches.items() for name, value in pairs.items()}
        return Batch(batches(number) | named)

    return make_batch


def iter_heldout_batches(
    latents: LatentDataset,
    batch_size: int,
    num_train_timesteps: int,
    indices: np.ndarray | None = None,
    *,
    shared: bool = False,
) -> Iterator[Batch]:
    """The held-out split (or the pairs `indices` it) once, each pair with its fixed noise and timestep below
    `num_train_timesteps`.

    If they are `shared`, each of several processes has some of these batches.
    """
    indices = np.arange(len(latents)) if indices is None else indices
    all_batches = _split_by_size(latents, indices, batch_size)
    for pairs, positions in shard_for_rank(all_batches) if shared else all_batches:
        rows = latents.get_batch(pairs)
        latent_samples, noise = _sample_latents_and_noise(
            rows, [make_generator(HELDOUT, place) for place in positions.tolist()], latents.scaling_factor
        )
        # The golden ratio spreads timesteps evenly over any prefix of the split.
        fractions = np.modf((positions + 0.5) * 0.6180339887)[0]
        yield Batch(
            {
                "pairs": torch.from_numpy(pairs),
                "latents": latent_samples,
                "noise": noise,
                "timesteps": torch.from_numpy((fractions * num_train_timesteps).astype(np.int64)),
                **_make_conditioning(rows, torch.zeros(len(latent_samples), dtype=torch.bool), latents),
            }
        )


def draw_uniform(purpose: int, seed: int, positions: np.ndarray) -> np.ndarray:
    """A uniform draw at each place for a purpose (which caption, say), as a number from 0 to 1."""
    return np.array(
        [torch.rand(1, generator=make_generator(purpose, seed, place)).item() for place in positions.tolist()]
    )


def _split_by_size(
    latents: LatentDataset, indices: np.ndarray, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(indices, places in line) of batches of one size of pictures each."""
    place = 0
    for group in latents.by_size(indices):
        for start in range(0, len(group), batch_size):
            pairs = group[start : start + batch_size]
            yield pairs, np.arange(place, place + len(pairs))
            place += len(pairs)


def _sample_latents_and_noise(
    rows: dict[str, Tensor], generators: list[torch.Generator], scaling_factor: float
) -> tuple[Tensor, Tensor]:
    """Final latents and noise (NCHW each), example by example from its own source."""
    each = zip(rows["mean"], rows["std"], generators, strict=True)
    latent_samples = torch.stack([sample_latents(mean, std, source, scaling_factor) for mean, std, source in each])
    return latent_samples, torch.stack(
        [torch.randn(latent_samples.shape[1:], generator=source) for source in generators]
    )


def _make_conditioning(rows: dict[str, Tensor], dropped: Tensor, latents: LatentDataset) -> dict[str, Tensor]:
    """The conditioning by the captions, and of no caption where it is `dropped`: "states", of SDXL also "pooled", and
    "sizes".

    With text encoders that learn, the tokens as they are, and "dropped" (N) for the encoders to heed.
    """
    sizes = {"sizes": rows["sizes"]} if "sizes" in rows else {}
    if tokens := {name: rows[name] for name in ("tokens", "tokens_2") if name in rows}:
        return tokens | {"dropped": dropped} | sizes
    conditioning = {"states": torch.where(dropped[:, None, None], latents.empty["text"], rows["text"])}
    if "pooled" in rows:
        conditioning["pooled"] = torch.where(dropped[:, None], latents.empty["pooled"], rows["pooled"])
    return conditioning | sizes
