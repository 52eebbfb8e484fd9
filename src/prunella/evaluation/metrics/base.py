"""The seam of quality metrics: pictures and prompts in, batch by batch; an estimate out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prunella.data.manifest import read_manifest
from prunella.latents.shards import Latents
from prunella.params import Backbones, Real
from prunella.sampling.benchmark_prompts import Prompt
from prunella.stats import Estimate, mean

Images = Sequence[np.ndarray]  # HWC uint8 each, all of one size in one batch


class Unavailable(Exception):
    """A metric that cannot be measured here; the message gives the reason and what would change that."""


class Metric(Protocol):
    """Measures one model's pictures; keeps features or counts, never pictures, so that their number has no limit."""

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        """Take a batch: pictures of one size and the prompt of each."""

    def compute(self) -> Estimate:
        """The value over all batches. Raises Unavailable where these are too few, or of the wrong kind."""

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        """What paired differences between models are made of, after `compute`.

        "": a value a picture, in order, None where there is none; their mean is the value of `compute`. Of a metric
        that compares with real pictures those are jackknife pseudo-values, and "_real" has one a real picture.
        """

    def parts(self) -> dict[str, Estimate]:
        """The same by part of what is measured (of composition: by claim); {} for a metric without parts."""

    def floor(self) -> Estimate | None:
        """The value of real pictures under the same captions; None where it is not measured."""


class OfAll:
    """What metrics share that know no picture's own value, no parts and no floor."""

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {}

    def parts(self) -> dict[str, Estimate]:
        return {}

    def floor(self) -> Estimate | None:
        return None


class PerPicture(OfAll):
    """A metric that is the mean of a value a picture; `measure` gives those of a batch."""

    def __init__(self, measure: Callable[[Images, Sequence[str]], Sequence[float]]):
        self.measure = measure
        self.each: list[float] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.each += [float(value) for value in self.measure(images, prompts)]

    def compute(self) -> Estimate:
        return mean(self.each)

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {"": self.each}


@dataclass(frozen=True)
class Subject:
    """What pictures are measured against; `shared` keeps what the metrics of all models have in common."""

    teacher: Path  # pipeline folder
    heldout: Latents
    prompts: list[Prompt]  # of every model's pictures, in their order
    manifest: Path  # of the pairs that passed the filter
    taught: Path  # the teacher's gallery, of the same prompts and noise
    prompt_file: Path  # which may have questions on its prompts
    backbones: Backbones
    real: Real
    resize: int | None
    jpeg: bool
    device: str
    batch_size: int
    shared: dict[str, Any] = field(default_factory=dict)

    def common(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` makes, once for all models and metrics; an Unavailable that it raises is kept too."""
        if name not in self.shared:
            try:
                self.shared[name] = make()
            except Unavailable as reason:
                self.shared[name] = reason
        if isinstance(made := self.shared[name], Unavailable):
            raise made
        return made

    @property
    def drawn(self) -> np.ndarray:
        """Numbers of the held-out pairs whose captions are drawn."""
        return np.array([prompt.pair for prompt in self.prompts if prompt.pair is not None], int)

    @property
    def source(self) -> dict:
        """Of the pairs, as the filter's manifest has it."""
        return self.common("manifest", lambda: read_manifest(self.manifest))[0]


def figures(name: str, metric: Metric) -> dict[str, dict]:
    """{name: estimate} and, of a metric with parts, {name_by: {part: estimate}}, as reports have them."""
    parts = {part: estimate.rounded() for part, estimate in metric.parts().items()}
    return {name: metric.compute().rounded()} | ({f"{name}_by": parts} if parts else {})
