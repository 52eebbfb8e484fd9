import numpy as np
import pytest

from prunella.evaluation.metrics import latent_kid
from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.latent_kid import build, kid

RANDOM = np.random.default_rng(0)


def discrepancy(one, other) -> float:
    """The unbiased estimator as the paper has it, pair by pair."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def within(rows):
        pairs = [kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    between = [kernel(x, y) for x in one for y in other]
    return within(one) + within(other) - 2 * sum(between) / len(between)


@pytest.mark.parametrize("block", [2, 1024])
def test_value_and_jackknife_pair_by_pair(block, monkeypatch):
    monkeypatch.setattr(latent_kid, "BLOCK", block)
    one, other = RANDOM.normal(size=(5, 3)), RANDOM.normal(0.5, 2, size=(7, 3))
    found = kid(one, other)
    assert found.value == pytest.approx(discrepancy(one, other)) and found.n == 5
    variance = sum(
        (len(rows) - 1) * np.var([leave(i) for i in range(len(rows))])
        for rows, leave in (
            (one, lambda i: discrepancy(np.delete(one, i, 0), other)),
            (other, lambda i: discrepancy(one, np.delete(other, i, 0))),
        )
    )
    half = 2.776445 * variance**0.5  # Student's t of 4 degrees of freedom
    assert (found.value - found.low, found.high - found.value) == pytest.approx((half, half))


def test_one_distribution_gives_no_distance_on_average_and_intervals_that_hold_it():
    rng = np.random.default_rng(1)
    found = [kid(rng.normal(size=(64, 64)), rng.normal(size=(64, 64))) for _ in range(60)]
    values = np.array([each.value for each in found])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5  # the Fréchet distance of such sets is far from 0
    assert np.mean([each.low <= 0 <= each.high for each in found]) >= 0.9


def test_another_distribution_is_told_apart():
    rng = np.random.default_rng(2)
    found = kid(rng.normal(0.5, 1, size=(64, 64)), rng.normal(size=(64, 64)))
    assert found.low > 0


def test_real_pictures_are_the_floor(subject):
    metric = build(subject)
    floor = metric.floor()
    assert floor.n == 3 and floor.low < 0 < floor.high
    metric.update([np.zeros((32, 32, 3), np.uint8)] * 3, ["a", "b", "c"])
    assert metric.compute().value > floor.value and metric.parts() == {}


def test_too_few_pictures_are_not_measured(make_subject):
    with pytest.raises(Unavailable, match=r"2 drawn and 5 other .* 3 of each"):
        build(make_subject(2))
