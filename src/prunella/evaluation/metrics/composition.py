"""Composition: the share of pictures in which every claim of a scene's caption is true, by the analytic judge."""

from collections.abc import Sequence

from prunella.evaluation.metrics.base import Images, Subject, Unavailable, figures
from prunella.scenes.generator import Vocabulary, read_vocabulary
from prunella.scenes.judge import CLAIMS, judge
from prunella.stats import Estimate, share


class Composition:
    """Counts true claims; captions that describe no scene are passed over."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.verdicts: list[dict[str, bool] | None] = []

    def update(self, images: Images, prompts: Sequence[str]) -> None:
        self.verdicts += [judge(image, prompt, self.vocabulary) for image, prompt in zip(images, prompts, strict=True)]

    def compute(self) -> Estimate:
        judged = [bool(true) for true in self.values()[""] if true is not None]
        if not judged:
            raise Unavailable("no caption describes a scene of the vocabulary; it is for filter.source: scenes")
        return share(sum(judged), len(judged))

    def values(self) -> dict[str, Sequence[float | bool | None]]:
        """Whether every claim is true; None where the caption makes none."""
        return {"": [None if verdict is None else all(verdict.values()) for verdict in self.verdicts]}

    def parts(self) -> dict[str, Estimate]:
        """The share of pictures in which each claim is true, of those whose caption makes it."""
        judged = [verdict for verdict in self.verdicts if verdict is not None]
        by = {claim: [bool(verdict[claim]) for verdict in judged if claim in verdict] for claim in CLAIMS}
        return {claim: share(sum(true), len(true)) for claim, true in by.items() if true}

    def floor(self) -> None:
        return None  # the judge finds every claim of a rendered scene true


def build(subject: Subject) -> Composition:
    if subject.source["source"] != "scenes":
        raise Unavailable("only rendered scenes have claims that can be checked; it is for filter.source: scenes")
    return Composition(subject.common("vocabulary", lambda: read_vocabulary(subject.source["path"])))


def composition(pictures: Images, captions: Sequence[str], vocabulary: Vocabulary) -> dict[str, dict]:
    """ "composition" and "composition_by" of a list of pictures; {} where no caption describes a scene."""
    metric = Composition(vocabulary)
    metric.update(pictures, captions)
    return figures("composition", metric) if any(metric.verdicts) else {}
