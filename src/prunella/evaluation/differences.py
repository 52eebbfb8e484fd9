"""Differences between models, paired: what two models give of the same pairs and prompts, one by one.

What is common to both, such as how hard a prompt or a timestep is, falls out; so a paired interval is far narrower than
the two models' own, and two models are called different only by it.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from scipy.stats import t

from prunella.stats import CONFIDENCE, Estimate, paired_difference

ERROR, REAL = "output_error", "_real"
BINS = 4  # of timesteps, equally wide
FEWEST = 10  # pairs, below which no interval is believed
# Metric → a value a pair (or picture), None where there is none. Of a distance from real pictures these are
# pseudo-values, and METRIC_real has those of the real pictures.
Values = dict[str, Sequence[float | bool | None]]


def timestep_bins(timesteps: Sequence[int], last: int) -> dict[str, list[int]]:
    """{"0-249": numbers of the pairs whose timestep is there, …} for timesteps below `last`."""
    edges = [last * i // BINS for i in range(BINS + 1)]
    return {
        f"{low}-{high - 1}": [i for i, timestep in enumerate(timesteps) if low <= timestep < high]
        for low, high in pairwise(edges)
    }


def difference(after: Values, before: Values, bins: dict[str, list[int]]) -> dict[str, Any]:
    """{metric: estimate} of `after` − `before` for every metric that both have, and {"output_error_by": by `bins`}.

    An estimate is {"value", "n", "low", "high", "different"}; "different" is true where the interval excludes 0 and
    there are ten pairs or more.
    """
    both = [name for name in after if name in before and not name.endswith(REAL)]
    found: dict[str, Any] = {name: _told(name, after, before) for name in both}
    if ERROR in both:
        parts = {name: some for name, some in bins.items() if some}
        found[f"{ERROR}_by"] = {
            name: _told(ERROR, {ERROR: [after[ERROR][i] for i in some]}, {ERROR: [before[ERROR][i] for i in some]})
            for name, some in parts.items()
        }
    return {name: value for name, value in found.items() if value}


def _told(name: str, after: Values, before: Values) -> dict[str, Any]:
    """{} where not one pair has both values, or the real pictures are not the same."""
    both = [(a, b) for a, b in zip(after[name], before[name], strict=True) if a is not None and b is not None]
    if not both:
        return {}
    estimate = paired_difference([a for a, _ in both], [b for _, b in both])
    if name + REAL in after:
        theirs = [values.get(name + REAL, []) for values in (after, before)]
        if len(theirs[0]) != len(theirs[1]):
            return {}
        estimate = _with_real(estimate, both, *theirs)
    return estimate.rounded() | {"different": different(estimate)}


def _with_real(estimate: Estimate, both: list[tuple], after: Sequence, before: Sequence) -> Estimate:
    """Of a distance from real pictures: chance has drawn those too, so their pseudo-values widen the interval."""
    changes = [np.subtract(*np.array(both, float).T), np.asarray(after, float) - np.asarray(before, float)]
    variance = sum(each.var(ddof=1) / len(each) for each in changes)
    half = float(t.ppf((1 + CONFIDENCE) / 2, min(map(len, changes)) - 1) * np.sqrt(variance))
    return Estimate(estimate.value, estimate.n, estimate.value - half, estimate.value + half)


def different(estimate: Estimate) -> bool:
    """Whether a paired difference is told from chance."""
    return estimate.n >= FEWEST and (estimate.low > 0 or estimate.high < 0)


def of_some(values: Values, pairs: Collection[int], pictures: Collection[int]) -> Values:
    """The values of some `pairs` (of the output error) and `pictures` (of every other metric) alone, by number.

    Distances from real pictures are those of all pictures together, so they are left out.
    """
    own = {name: each for name, each in values.items() if name.removesuffix(REAL) + REAL not in values}
    return {name: [each[i] for i in (pairs if name == ERROR else pictures)] for name, each in own.items()}


def between(
    values: dict[str, Values], students: Sequence[str], stages: Sequence[str], bins: dict[str, list[int]]
) -> dict[str, dict]:
    """{"A - B": difference} of every stage of a student from the teacher, and of every two students stage by stage.

    The output error is itself a difference from the teacher, and is left out of the former.
    """
    pairs: dict[str, dict] = {}
    for student, stage in product(students, stages):
        bare = {name: each for name, each in values.get("teacher", {}).items() if name != ERROR}
        pairs[f"{student}/{stage} - teacher"] = difference(values[f"{student}/{stage}"], bare, {})
    for i, one in enumerate(students):
        for other, stage in product(students[i + 1 :], stages):
            name = f"{other}/{stage} - {one}/{stage}"
            pairs[name] = difference(values[f"{other}/{stage}"], values[f"{one}/{stage}"], bins)
    return {name: found for name, found in pairs.items() if found}
