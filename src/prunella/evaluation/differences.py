"""Differences between models, paired: what two models give of the same pairs and prompts, one by one.

Common parts, such as how hard a prompt or a timestep is, falls out; so a paired interval is far narrower than
the two models' own, and two models are called different only by it.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
from scipy.stats import t

from prunella.stats import CONFIDENCE, Estimate, estimate_paired_difference

OUTPUT_ERROR, REAL_SUFFIX = "output_error", "_real"
NUM_TIMESTEP_BINS = 4  # of timesteps, equally wide
MIN_SAMPLES = 10  # pairs, below which no interval is believed
# Metric → a value a pair (or picture), None where there is none. For a distance from real pictures these are
# pseudo-values, and METRIC_real has those of the real pictures.
Values = dict[str, Sequence[float | bool | None]]


def bin_timesteps(timesteps: Sequence[int], last: int) -> dict[str, list[int]]:
    """{"0-249": numbers of the pairs whose timestep is there, …} for timesteps below `last`."""
    edges = [last * i // NUM_TIMESTEP_BINS for i in range(NUM_TIMESTEP_BINS + 1)]
    return {
        f"{low}-{high - 1}": [i for i, timestep in enumerate(timesteps) if low <= timestep < high]
        for low, high in pairwise(edges)
    }


def compare_values(after: Values, before: Values, bins: dict[str, list[int]]) -> dict[str, Any]:
    """{metric: estimate} of `after` − `before` for every metric that both have, and {"output_error_by": by `bins`}.

    An estimate is {"value", "n", "low", "high", "different"}; "different" is true where the interval excludes 0 and
    there are ten pairs or more.
    """
    common_metrics = [name for name in after if name in before and not name.endswith(REAL_SUFFIX)]
    estimates: dict[str, Any] = {name: _compare_metric(name, after, before) for name in common_metrics}
    if OUTPUT_ERROR in common_metrics:
        filled_bins = {name: indices for name, indices in bins.items() if indices}
        estimates[f"{OUTPUT_ERROR}_by"] = {
            name: _compare_metric(
                OUTPUT_ERROR,
                {OUTPUT_ERROR: [after[OUTPUT_ERROR][i] for i in indices]},
                {OUTPUT_ERROR: [before[OUTPUT_ERROR][i] for i in indices]},
            )
            for name, indices in filled_bins.items()
        }
    return {name: value for name, value in estimates.items() if value}


def _compare_metric(name: str, after: Values, before: Values) -> dict[str, Any]:
    """{} where not one pair has both values, or the real pictures are not the same."""
    value_pairs = [(a, b) for a, b in zip(after[name], before[name], strict=True) if a is not None and b is not None]
    if not value_pairs:
        return {}
    estimate = estimate_paired_difference([a for a, _ in value_pairs], [b for _, b in value_pairs])
    if name + REAL_SUFFIX in after:
        real_values = [values.get(name + REAL_SUFFIX, []) for values in (after, before)]
        if len(real_values[0]) != len(real_values[1]):
            return {}
        estimate = _widen_by_real_images(estimate, value_pairs, *real_values)
    return estimate.to_report_dict() | {"different": is_significant(estimate)}


def _widen_by_real_images(estimate: Estimate, value_pairs: list[tuple], after: Sequence, before: Sequence) -> Estimate:
    """Of a distance from real pictures: chance has drawn those too, so their pseudo-values widen the interval."""
    changes = [np.subtract(*np.array(value_pairs, float).T), np.asarray(after, float) - np.asarray(before, float)]
    variance = sum(each.var(ddof=1) / len(each) for each in changes)
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, min(map(len, changes)) - 1) * np.sqrt(variance))
    return Estimate(estimate.value, estimate.n, estimate.value - half_width, estimate.value + half_width)


def is_significant(estimate: Estimate) -> bool:
    """Whether a paired difference is told from chance."""
    return estimate.n >= MIN_SAMPLES and (estimate.low > 0 or estimate.high < 0)


def select_values(values: Values, sample_indices: Collection[int], image_indices: Collection[int]) -> Values:
    """The values of some `sample_indices` (of the output error) and `image_indices` (of every other metric) alone, by
    number.

    Distances from real pictures are those of all pictures together, so they are left out.
    """
    per_image_values = {
        name: each for name, each in values.items() if name.removesuffix(REAL_SUFFIX) + REAL_SUFFIX not in values
    }
    return {
        name: [each[i] for i in (sample_indices if name == OUTPUT_ERROR else image_indices)]
        for name, each in per_image_values.items()
    }


def compare_models(
    values: dict[str, Values], students: Sequence[str], stages: Sequence[str], bins: dict[str, list[int]]
) -> dict[str, dict]:
    """{"A - B": difference} of every stage of a student from the teacher, and of every two students stage by stage.

    The output error is itself a difference from the teacher, and is left out of the former.
    """
    comparisons: dict[str, dict] = {}
    for student, stage in product(students, stages):
        teacher_values = {name: each for name, each in values.get("teacher", {}).items() if name != OUTPUT_ERROR}
        comparisons[f"{student}/{stage} - teacher"] = compare_values(values[f"{student}/{stage}"], teacher_values, {})
    for i, first in enumerate(students):
        for second, stage in product(students[i + 1 :], stages):
            name = f"{second}/{stage} - {first}/{stage}"
            comparisons[name] = compare_values(values[f"{second}/{stage}"], values[f"{first}/{stage}"], bins)
    return {name: comparison for name, comparison in comparisons.items() if comparison}
