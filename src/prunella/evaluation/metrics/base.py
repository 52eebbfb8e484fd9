"""The seam of quality metrics: pictures and prompts in, batch by batch; an estimate out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from prunella.evaluation.stats import Estimate
from prunella.latents.shards import Latents

Images = Sequence[np.ndarray]  # HWC uint8 each, all of one size in one batch


class Unavailable(Exception):
    """A metric that cannot be measured here; the message gives the reason and what would change that."""


class Metric(Protocol):
    """Measures one model's pictures; keeps features or counts, never pictures, so that their number has no limit."""

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        """Take a batch: pictures of one size and the prompt of each."""

    def compute(self) -> Estimate:
        """The value over all batches. Raises Unavailable where these are too few, or of the wrong kind."""

    def parts(self) -> dict[str, Estimate]:
        """The same by part of what is measured (of composition: by claim); {} for a metric without parts."""

    def floor(self) -> Estimate | None:
        """The value of real pictures under the same captions; None where it is not measured."""


@dataclass(frozen=True)
class Subject:
    """What pictures are measured against; `shared` keeps what the metrics of all models have in common."""

    teacher: Path  # pipeline folder
    heldout: Latents
    drawn: np.ndarray  # numbers of the held-out pairs whose captions are drawn
    source: dict  # of the pairs, as the filter's manifest has it
    device: str
    batch_size: int
    shared: dict[str, Any] = field(default_factory=dict)

    def common(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` makes, once for all models and metrics."""
        if name not in self.shared:
            self.shared[name] = make()
        return self.shared[name]


def figures(name: str, metric: Metric) -> dict[str, dict]:
    """{name: estimate} and, of a metric with parts, {name_by: {part: estimate}}, as reports have them."""
    parts = {part: estimate.rounded() for part, estimate in metric.parts().items()}
    return {name: metric.compute().rounded()} | ({f"{name}_by": parts} if parts else {})
