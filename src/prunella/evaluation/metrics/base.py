"""The seam of quality metrics: pictures and prompts in, batch by batch; an estimate out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prunella.data.manifest import read_sample_manifest
from prunella.latents.shards import LatentDataset
from prunella.params import Backbones, ReferenceImages
from prunella.sampling.benchmark_prompts import Prompt
from prunella.stats import Estimate, estimate_mean

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
        """The data of paired differences between models, `compute`.

        "": a value a picture, in order, None where there is none; their mean is the value of `compute`. For a metric
        that compares with real pictures, those are jackknife pseudo-values, and "_real" has one a real picture.
        """

    def breakdown(self) -> dict[str, Estimate]:
        """The same by part of what is measured (of composition: by claim); {} for a metric without parts."""

    def real_data_floor(self) -> Estimate | None:
        """The value of real pictures under the same captions; None where it is not measured."""


class SetMetricDefaults:
    """Defaults of metrics know no picture's own value, no parts and no floor."""

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {}

    def breakdown(self) -> dict[str, Estimate]:
        return {}

    def real_data_floor(self) -> Estimate | None:
        return None


class PerImageMetric(SetMetricDefaults):
    """A metric that is the mean of a value a picture; `measure` gives those of a batch."""

    def __init__(self, measure: Callable[[Images, Sequence[str]], Sequence[float]]):
        self.measure = measure
        self.scores: list[float] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.scores += [float(value) for value in self.measure(images, prompts)]

    def compute(self) -> Estimate:
        return estimate_mean(self.scores)

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        return {"": self.scores}


@dataclass(frozen=True)
class MetricContext:
    """Context of a measurement; `shared` keeps what the metrics of all models have in common."""

    teacher_dir: Path  # pipeline folder
    heldout: LatentDataset
    prompts: list[Prompt]  # of every model's pictures, in their order
    manifest: Path  # of the pairs that passed the filter
    teacher_images_dir: Path  # the teacher's gallery, of the same prompts and noise
    prompt_file: Path  # which may have questions on its prompts
    backbones: Backbones
    real: ReferenceImages
    resize: int | None
    jpeg: bool
    device: str
    batch_size: int
    shared: dict[str, Any] = field(default_factory=dict)

    def get_shared(self, name: str, factory: Callable[[], Any]) -> Any:
        """The result of `factory`, once for all models and metrics; an Unavailable that it raises is kept too."""
        if name not in self.shared:
            try:
                self.shared[name] = factory()
            except Unavailable as reason:
                self.shared[name] = reason
        if isinstance(value := self.shared[name], Unavailable):
            raise value
        return value

    @property
    def heldout_indices(self) -> np.ndarray:
        """Numbers of the held-out pairs whose captions are drawn."""
        return np.array([prompt.pair for prompt in self.prompts if prompt.pair is not None], int)

    @property
    def data_info(self) -> dict:
        """Names of the pairs, as the filter's manifest has it."""
        return self.get_shared("manifest", lambda: read_sample_manifest(self.manifest))[0]


def make_report_entries(name: str, metric: Metric) -> dict[str, dict]:
    """{name: estimate} and, of a metric with parts, {name_by: {part: estimate}}, as reports have them."""
    breakdown = {part: estimate.to_report_dict() for part, estimate in metric.breakdown().items()}
    return {name: metric.compute().to_report_dict()} | ({f"{name}_by": breakdown} if breakdown else {})
