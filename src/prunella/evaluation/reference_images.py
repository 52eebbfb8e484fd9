"""Real pictures, which sets of drawn ones are compared with: those of a folder, or those that passed the filter."""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from prunella.data.buckets import assigned
from prunella.data.images import PICTURES, RejectedImage, fitted, read_picture
from prunella.data.manifest import Sample, chunks, read_manifest
from prunella.data.sources import open_source
from prunella.evaluation.metrics.base import Images, Subject, Unavailable
from prunella.evaluation.preprocess import as_measured

Embed = Callable[[Images], np.ndarray]  # pictures of one size → NF features


class PictureSpace:
    """Features of pictures by `embed`, and those of the real ones, of which a batch of pictures is held at a time."""

    def __init__(self, subject: Subject, embed: Embed):
        self.embed = embed
        if subject.real.path:
            self.real = _features(embed, _of_folder(subject, Path(subject.real.path)))
            self.asked = np.zeros((0, self.real.shape[1]), self.real.dtype)
        else:
            asked, others = _parted(subject)
            self.real = _features(embed, _of_pairs(subject, others))
            self.asked = _features(embed, _of_pairs(subject, asked)) if asked else np.zeros((0, self.real.shape[1]))

    def __call__(self, images: Images) -> np.ndarray:
        return self.embed(images)


def picture_space(subject: Subject, name: str, embed: Embed) -> PictureSpace:
    """The space that all metrics and models share which look through the backbone `name`."""
    return subject.common(f"{name} of real pictures", lambda: PictureSpace(subject, embed))


def _features(embed: Embed, batches: Iterator[Images]) -> np.ndarray:
    parts = [embed(batch) for batch in batches]
    if not parts:
        raise Unavailable("there is not one real picture to compare with (benchmark.real)")
    return np.concatenate(parts)


def _parted(subject: Subject) -> tuple[list[Sample], list[Sample]]:
    """The pairs whose captions are drawn, and at most `real.pictures` of the others: a seeded choice that stays."""
    drawn = {prompt.text for prompt in subject.prompts}
    pairs = subject.common("manifest", lambda: read_manifest(subject.manifest))[1]
    others = [pair for pair in pairs if not drawn & set(pair.captions)]
    others.sort(key=lambda pair: hashlib.sha256(f"{pair.key} {pair.sum}".encode()).digest())
    most = subject.real.pictures
    return [pair for pair in pairs if drawn & set(pair.captions)][:most], others[:most]


def _of_pairs(subject: Subject, pairs: list[Sample]) -> Iterator[Images]:
    """Batches of one size each: a picture is cut to that of the drawn sizes which is nearest in proportions."""
    sizes = sorted({(prompt.width, prompt.height) for prompt in subject.prompts})
    places = assigned(np.array([(pair.width, pair.height) for pair in pairs]), sizes, np.inf)
    source, missing = open_source(subject.source), 0
    for number, size in enumerate(sizes):
        alike = [pair for pair, place in zip(pairs, places, strict=True) if place == number]
        for some in chunks(alike, subject.batch_size):
            found = []
            for pair in some:
                try:
                    found.append(fitted(source.image(pair.key), *size))
                except RejectedImage:
                    missing += 1
            if found:
                yield as_measured(found, subject.resize, subject.jpeg, stored=True)
    if missing:
        print(f"real pictures: {missing} cannot be read any more and are left out", file=sys.stderr)


def _of_folder(subject: Subject, folder: Path) -> Iterator[Images]:
    """Batches of one size each: that of the drawn pictures, or `resize`, to which they are then squashed."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise Unavailable(f"benchmark.real.path: {folder} holds no picture ({', '.join(sorted(PICTURES))})")
    files.sort(key=lambda path: hashlib.sha256(path.relative_to(folder).as_posix().encode()).digest())
    size = max((prompt.width, prompt.height) for prompt in subject.prompts)
    for some in chunks(files[: subject.real.pictures], subject.batch_size):
        yield _read(some, size, subject)


def _read(files: Sequence[Path], size: tuple[int, int], subject: Subject) -> Images:
    pictures = [read_picture(file) for file in files]
    if subject.resize is None:
        return as_measured([fitted(picture, *size) for picture in pictures], None, subject.jpeg, stored=True)
    squashed = [as_measured([np.asarray(picture)], subject.resize, subject.jpeg, stored=True) for picture in pictures]
    return [picture for pictures in squashed for picture in pictures]
