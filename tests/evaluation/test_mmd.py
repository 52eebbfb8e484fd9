import numpy as np
import pytest

from prunella.evaluation import mmd
from prunella.evaluation.mmd import evaluate_cubic_kernel, make_gaussian_kernel, measure_mmd

RANDOM = np.random.default_rng(0)


def by_pairs(one, other, kernel) -> float:
    """The unbiased estimator as Gretton et al. have it, pair by pair."""

    def within(rows):
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    return within(one) + within(other) - 2 * sum(kernel(x, y) for x in one for y in other) / (len(one) * len(other))


KERNELS = {
    "cubic": (evaluate_cubic_kernel, lambda x, y: (float(x @ y) / len(x) + 1) ** 3),
    "gaussian": (make_gaussian_kernel(1.5, 7.0), lambda x, y: 7 * float(np.exp(-np.sum((x - y) ** 2) / 4.5))),
}


@pytest.mark.parametrize("block", [15, 1024])
@pytest.mark.parametrize("name", KERNELS)
def test_value_and_jackknife_pair_by_pair(name, block, monkeypatch):
    monkeypatch.setattr(mmd, "MAX_BLOCK_ENTRIES", block)
    kernel, of_pair = KERNELS[name]
    one, other = RANDOM.normal(size=(5, 3)), RANDOM.normal(0.5, 2, size=(7, 3))
    found = measure_mmd(one, other, kernel)
    assert found.value == pytest.approx(by_pairs(one, other, of_pair))
    left_out = [by_pairs(np.delete(one, i, 0), other, of_pair) for i in range(5)]
    assert found.generated_values == pytest.approx([5 * found.value - 4 * value for value in left_out])
    left_out = [by_pairs(one, np.delete(other, i, 0), of_pair) for i in range(7)]
    assert found.real_values == pytest.approx([7 * found.value - 6 * value for value in left_out])
    estimate = found.estimate()
    half = (
        2.776445 * (found.generated_values.var(ddof=1) / 5 + found.real_values.var(ddof=1) / 7) ** 0.5
    )  # Student's t, 4 degrees
    assert (estimate.value - estimate.low, estimate.high - estimate.value) == pytest.approx((half, half))
    assert estimate.n == 5


def test_one_distribution_gives_no_distance_on_average_and_intervals_that_hold_it():
    rng = np.random.default_rng(1)
    found = [
        measure_mmd(rng.normal(size=(64, 64)), rng.normal(size=(64, 64)), evaluate_cubic_kernel).estimate()
        for _ in range(60)
    ]
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5  # the Fréchet distance of such sets is far from 0
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.9


def test_another_distribution_is_told_apart():
    rng = np.random.default_rng(2)
    found = measure_mmd(rng.normal(0.5, 1, size=(64, 64)), rng.normal(size=(64, 64)), evaluate_cubic_kernel)
    assert found.estimate().low > 0
