"""Encoded pairs on disk: shards of safetensors and a manifest.

A folder holds `SPLIT-00000.safetensors`, each of pictures of one size: tensors "mean" and "std" (NCHW), where pictures
are learned mirrored too "mean_mirrored" and "std_mirrored", of an SDXL teacher "sizes" (N6), and for the captions
"text" (NLD; "pooled" NP too of SDXL), or "tokens" (NL; and "tokens_2") where the text encoders are to run in training.
For pictures with several captions, those have a row each, and "captions" (N2) says of each picture which row is its
first, and how many it has. Beside a shard lie `SPLIT-00000.jsonl` (a line a pair: its caption, or the list of them)
and, written after both, `SPLIT-00000.json`: pairs, size, and sums of the two. `empty.safetensors` holds what no caption
is encoded to, under the names of the encoded ones. `manifest.json` names the shards of the splits "train" and "heldout"
and is written last: a folder without one is not whole. For shards on a store, the manifest has that as "store", and of
each shard the tensors' names.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Semaphore, Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from prunella.compute.resume import work_root
from prunella.errors import UserError
from prunella.storage.cache import RESTORE_HINT, evict_cached, fetch_cached
from prunella.storage.files import atomic_write_text, json_digest, link_or_copy, sha256
from prunella.storage.remote import RemotePath, parse_location

TEXT_TENSORS = ("text", "pooled", "tokens", "tokens_2")  # a row a caption; of others a row a picture
IMAGE_TENSORS = ("mean", "std")
MIRRORED = ("mean_mirrored", "std_mirrored")  # of the pictures seen in a mirror
KINDS = (".safetensors", ".jsonl", ".json")  # the files of a shard, the note last
MANIFEST = "manifest.json"
FETCHED_DIR = 4  # shards that are copied from a store at a time, ahead


class Shard(NamedTuple):
    """The note of a shard."""

    name: str  # SPLIT-00000
    split: str
    pairs: int
    size: tuple[int, int]  # width and height of its pictures, in pixels
    bytes: int
    sha256: str
    captions_sha256: str
    notes: dict[str, int]  # what is counted of its making
    tensors: tuple[str, ...] = ()  # their names, of a shard on a store

    def to_note(self) -> dict[str, Any]:
        """Its form on disk."""
        return {name: value for name, value in self._asdict().items() if name != "tensors" or value}

    @property
    def sums(self) -> dict[str, str]:
        """By the kind of file."""
        return {".safetensors": self.sha256, ".jsonl": self.captions_sha256}


def parse_note(note_text: dict[str, Any]) -> Shard:
    """The shard of a note. Raises TypeError and KeyError where that was no shard."""
    return Shard(**note_text | {"size": tuple(note_text["size"]), "tensors": tuple(note_text.get("tensors", ()))})


def write_shard(
    folder: Path,
    split: str,
    number: int,
    size: tuple[int, int],
    captions: list,
    tensors: dict[str, Tensor],
    notes: dict[str, int] | None = None,
) -> Shard:
    """Write a shard; half of one is never taken for whole, since its note comes last."""
    name = f"{split}-{number:05d}"
    file, lines = folder / f"{name}.safetensors", folder / f"{name}.jsonl"
    save_file({key: value.contiguous() for key, value in tensors.items()}, half := file.with_suffix(".half"))
    half.replace(file)
    atomic_write_text(lines, "".join(json.dumps(text, ensure_ascii=False) + "\n" for text in captions))
    sums = sha256(file), sha256(lines)
    shard = Shard(name, split, len(captions), (size[0], size[1]), file.stat().st_size, *sums, dict(notes or {}))
    atomic_write_text(folder / f"{name}.json", json.dumps(shard.to_note()) + "\n")
    return shard


def link_shard(origin: Path, folder: Path, name: str) -> None:
    """A shard in another folder too, its note last, without a second copy where the file system can."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        link_or_copy(origin / f"{name}{kind}", folder / f"{name}{kind}")


def read_shard_note(folder: Path, name: str) -> Shard | None:
    """The note of the shard of that name, if it is there in its full length, else None."""
    try:
        shard = parse_note(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        length = (folder / f"{name}.safetensors").stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return shard if length == shard.bytes else None


def verify_shard(folder: Path, name: str) -> Shard | None:
    """The shard of that name if it is there and, by its sums, as it was written, else None."""
    shard = read_shard_note(folder, name)
    sums = [(folder / f"{name}.safetensors", "sha256"), (folder / f"{name}.jsonl", "captions_sha256")]
    sound = shard and all(file.is_file() and sha256(file) == getattr(shard, sum) for file, sum in sums)
    return shard if sound else None


def write_manifest(folder: Path, shards: list[Shard], empty: dict[str, Tensor], **notes: Any) -> dict:
    """Write what no caption is encoded to, and the manifest; `notes` (scaling_factor, …) go there."""
    save_file({name: value.contiguous() for name, value in empty.items()}, folder / "empty.safetensors")
    splits: dict[str, list] = {}
    for shard in shards:
        splits.setdefault(shard.split, []).append(shard.to_note())
    manifest = {"splits": splits, "empty": sha256(folder / "empty.safetensors"), **notes}
    manifest["sha256"] = json_digest(manifest)
    atomic_write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


class LatentDataset:
    """One split of an encoded folder; pairs are read from the mapped shards as they are asked for.

    Shards on a store are copied to work/cache then, or ahead.

    `texts` makes "text" (and "pooled") of "tokens" where those are stored: see
    `prunella.latents.encoders.open_latents`.
    """

    def __init__(self, folder: Path, split: str, texts: Callable[[dict], dict] | None = None):
        self.manifest = read_manifest(folder)
        self.folder, self.split, self.texts = folder, split, texts
        self._opened: dict[int, safe_open] = {}
        self._ahead: set[int] = set()  # shards that are opened in the background, once
        self.place = parse_location(self.manifest.get("store", folder))
        self.cache = work_root() / "cache"
        self._reading = Semaphore(FETCHED_DIR if self.is_remote else 1)
        self.shards = [parse_note(each) for each in self.manifest["splits"].get(split, [])]
        self._check_complete()
        self.starts = np.concatenate([[0], np.cumsum([shard.pairs for shard in self.shards])]).astype(int)
        self.scaling_factor = self.manifest["scaling_factor"]
        if texts is None and self.manifest.get("text") == "tokens":
            raise UserError(f"{folder} holds tokens; they are opened with the text encoders that make text of them")

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def captions(self) -> list[str]:
        """A caption a pair, the first where it has several."""
        return [text if isinstance(text, str) else text[0] for text in self._texts()]

    def _texts(self) -> list[str | list[str]]:
        files = list(map(partial(self._verify_file, kind=".jsonl"), range(len(self.shards))))
        whole = [file.read_text(encoding="utf-8") for file in files]
        return [json.loads(line) for text in whole for line in text.split("\n") if line]

    @cached_property
    def empty(self) -> dict[str, Tensor]:
        """ "text" (LD) and, of an SDXL teacher, "pooled" (P) of no caption."""
        file = has_checksum(self.folder / "empty.safetensors", self.manifest["empty"])
        return {name: value.float() for name, value in load_file(file).items()}

    def by_size(self, indices: np.ndarray) -> list[np.ndarray]:
        """`indices` grouped by the pictures' size, in order; what is taken at once must be of one size."""
        numbers = {size: i for i, size in enumerate(dict.fromkeys(shard.size for shard in self.shards))}
        shard_numbers = np.array([numbers[shard.size] for shard in self.shards], int)
        places = shard_numbers[self.shard_of(indices)] if len(indices) else np.zeros(0, int)
        return [indices[places == number] for number in np.unique(places)]

    def shard_of(self, indices: np.ndarray) -> np.ndarray:
        """The number of the shard of each pair."""
        return np.searchsorted(self.starts, indices, side="right") - 1

    def prefetch(self, indices: np.ndarray) -> None:
        """Open the shards of the pairs in the background, in turn; that reads them, since their sums are checked."""
        numbers = np.unique(self.shard_of(indices)).tolist()
        if new := [number for number in numbers if number not in self._opened and number not in self._ahead]:
            self._ahead.update(new)
            # As a daemon: at its last step or by an error a process ends without waiting until all of them are read.
            for sample_indices in [new[at::FETCHED_DIR] for at in range(FETCHED_DIR)] if self.is_remote else [new]:
                Thread(target=self._open, args=[sample_indices], name="reading ahead", daemon=True).start()

    def _open(self, numbers: list[int]) -> None:
        with self._reading, suppress(UserError, OSError):  # which taking a pair of that shard raises as well
            for number in numbers:
                if number in self._ahead:
                    self._file(number)
                if number not in self._ahead:  # let go meanwhile
                    self._close_shard(number)

    def reserve(self, indices: np.ndarray, max_open_shards: int | None = None) -> None:
        """Say which pairs will be asked for, those of `max_open_shards` shards at a time (None: of all).

        For shards on a store, raises UserError where there is no room for so many copies; if for all, they are fetched
        ahead.
        """
        if not self.is_remote:
            return
        shards = [self.shards[number] for number in np.unique(self.shard_of(indices)).tolist()]
        self.cache.mkdir(parents=True, exist_ok=True)
        largest = sorted((shard.bytes for shard in shards), reverse=True)[:max_open_shards]
        local_bytes = sum(shard.bytes for shard in shards if (self.cache / shard.sha256).is_file())
        needed, free = sum(largest) - local_bytes, shutil.disk_usage(self.cache).free
        if needed > free:
            raise UserError(
                f"{self.folder}: copies of {len(largest)} shards take {needed / 1e9:,.1f} GB at {self.cache}, "
                f"{free / 1e9:,.1f} GB are free; {'a smaller' if max_open_shards else 'with'} shuffle_shards "
                f"keeps those alone "
                "that pairs are mixed among, and those of the next"
            )
        if max_open_shards is None:
            self.prefetch(indices)

    def keep_open(self, numbers: set[int]) -> None:
        """Let go of all shards but these, where they are copies."""
        if self.is_remote:
            for number in (self._opened.keys() | self._ahead) - numbers:
                self._ahead.discard(number)
                self._close_shard(number)

    def _close_shard(self, number: int) -> None:
        self._opened.pop(number, None)
        evict_cached(self.shards[number].sha256, self.cache)

    @cached_property
    def has_several_captions(self) -> bool:
        """Whether a picture may have several captions."""
        return any("captions" in names for names in self._names)

    @cached_property
    def has_mirrored(self) -> bool:
        """Whether pictures may be taken mirrored."""
        return bool(self._names) and all(MIRRORED[0] in names for names in self._names)

    def get_batch(
        self, indices: Iterable[int], caption_draws: np.ndarray | None = None, is_mirrored: np.ndarray | None = None
    ) -> dict[str, Tensor]:
        """Every tensor of the pairs at `indices`, fp32, by name, in that order.

        Among several captions, the one at `caption_draws` (0 ≤ each < 1) is taken, else the first. `is_mirrored` says
        of each pair whether its picture is taken mirrored.
        """
        rows: dict[str, list[Tensor]] = {}
        for at, index in enumerate(map(int, indices)):
            number = int(np.searchsorted(self.starts, index, side="right")) - 1
            file, place = self._file(number), index - int(self.starts[number])
            names = self._names[number]
            caption = place
            if "captions" in names:
                first, count = file.get_slice("captions")[place : place + 1][0].tolist()
                caption = first + (int(caption_draws[at] * count) if caption_draws is not None else 0)
            for name in names:
                if name != "captions" and name not in MIRRORED:
                    row = caption if name in TEXT_TENSORS else place
                    stored = (
                        f"{name}_mirrored"
                        if name in IMAGE_TENSORS and is_mirrored is not None and is_mirrored[at]
                        else name
                    )
                    rows.setdefault(name, []).append(file.get_slice(stored)[row : row + 1])
        rows_by_name = {name: torch.cat(parts) for name, parts in rows.items()}
        tokens = {name: rows_by_name.pop(name) for name in ("tokens", "tokens_2") if name in rows_by_name}
        return {name: value.float() for name, value in rows_by_name.items()} | (
            self.texts(tokens) if self.texts and tokens else {}
        )

    def _file(self, number: int) -> Any:
        """The shard of that number, mapped; its sum is checked when it is first opened (docs/reliability.md: cost)."""
        file = self._opened.get(number)
        if file is None:
            file = self._opened[number] = open_memory_mapped(self._verify_file(number, ".safetensors"))
        return file

    def _verify_file(self, number: int, kind: str) -> Path:
        """A file of a shard, its sum checked. Raises UserError where its content is another."""
        shard = self.shards[number]
        if isinstance(self.place, Path):
            return has_checksum(self.place / f"{shard.name}{kind}", shard.sums[kind])
        return fetch_cached(self.place / f"{shard.name}{kind}", shard.sums[kind], self.cache)

    @property
    def is_remote(self) -> bool:
        """Whether the shards are copied from a store."""
        return isinstance(self.place, RemotePath)

    def _check_complete(self) -> None:
        """Raises UserError where a shard is missing, or shorter than it was."""
        if isinstance(self.place, Path):
            for shard in self.shards:
                has_size(self.place / f"{shard.name}.safetensors", shard.bytes)
            return
        if all((self.cache / sum).is_file() for shard in self.shards for sum in shard.sums.values()):
            return
        is_complete = {path.name: path.listed_size for path in self.place.rglob("*.safetensors")}
        for shard in self.shards:
            if is_complete.get(f"{shard.name}.safetensors") != shard.bytes:
                raise UserError(
                    f"{self.place}/{shard.name}.safetensors: not on the store as it was written; {RESTORE_HINT}"
                )

    @cached_property
    def _names(self) -> list[list[str]]:
        """The tensors of each shard, by its header alone."""
        if self.is_remote:
            return [list(shard.tensors) for shard in self.shards]
        return [
            list(open_memory_mapped(Path(f"{self.place}/{shard.name}.safetensors")).keys()) for shard in self.shards
        ]


def read_manifest(folder: Path) -> dict:
    """The manifest of an encoded folder. Raises UserError where there is none, or not the one that was written."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{folder}: no {MANIFEST}, so these latents are not whole; run the encode stage again")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest = json_digest({name: value for name, value in manifest.items() if name != "sha256"})
    except (ValueError, AttributeError):
        manifest, digest = {}, "unreadable"
    if manifest.get("sha256") != digest:
        raise make_damage_error(path)
    return manifest


def has_size(file: Path, size: int) -> None:
    if not file.is_file() or file.stat().st_size != size:
        actual_size = f"{file.stat().st_size:,} bytes" if file.is_file() else "nothing"
        raise UserError(f"{file}: {size:,} bytes were written, {actual_size} is there; run the encode stage again")


def has_checksum(file: Path, sum: str) -> Path:
    """The file, whose content is as it was written. Raises UserError."""
    if not file.is_file() or sha256(file) != sum:
        raise make_damage_error(file)
    return file


def open_memory_mapped(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except SafetensorError:
        raise make_damage_error(file) from None


def make_damage_error(file: Path) -> UserError:
    return UserError(
        f"{file}: damaged, its content is not what was written; run the encode stage again "
        "(docs/reliability.md, 'Damaged files', says how DVC's copy goes)"
    )
