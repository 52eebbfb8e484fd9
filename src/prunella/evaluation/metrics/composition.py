"""Composition: the share of pictures in which every claim of a scene's caption is true, by the analytic judge."""

from collections.abc import Sequence

from prunella.evaluation.metrics.base import Images, MetricContext, Unavailable, make_report_entries
from prunella.scenes.generator import Vocabulary, read_vocabulary
from prunella.scenes.judge import CLAIMS, judge_image
from prunella.stats import Estimate, estimate_fraction


class Composition:
    """Counts true claims; captions that describe no scene are passed over."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.verdicts: list[dict[str, bool] | None] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.verdicts += [
            judge_image(image, prompt, self.vocabulary) for image, prompt in zip(images, prompts, strict=True)
        ]

    def compute(self) -> Estimate:
        outcomes = [bool(outcome) for outcome in self.values()[""] if outcome is not None]
        if not outcomes:
            raise Unavailable("no caption describes a scene of the vocabulary; it is for filter.source: scenes")
        return estimate_fraction(sum(outcomes), len(outcomes))

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        """Whether every claim is true; None where the caption makes none."""
        return {"": [None if verdict is None else all(verdict.values()) for verdict in self.verdicts]}

    def breakdown(self) -> dict[str, Estimate]:
        """The share of pictures in which each claim is true, of those whose caption makes it."""
        verdicts = [verdict for verdict in self.verdicts if verdict is not None]
        outcomes_by_claim = {
            claim: [bool(verdict[claim]) for verdict in verdicts if claim in verdict] for claim in CLAIMS
        }
        return {
            claim: estimate_fraction(sum(outcomes), len(outcomes))
            for claim, outcomes in outcomes_by_claim.items()
            if outcomes
        }

    def real_data_floor(self) -> None:
        return None  # the judge finds every claim of a rendered scene true


def build(context: MetricContext) -> Composition:
    if context.data_info["source"] != "scenes":
        raise Unavailable("only rendered scenes have claims that can be checked; it is for filter.source: scenes")
    return Composition(context.get_shared("vocabulary", lambda: read_vocabulary(context.data_info["path"])))


def measure_composition(images: Images, captions: Sequence[str], vocabulary: Vocabulary) -> dict[str, dict]:
    """ "composition" and "composition_by" of a list of pictures; {} where no caption describes a scene."""
    metric = Composition(vocabulary)
    metric.update(images, captions)
    return make_report_entries("composition", metric) if any(metric.verdicts) else {}
