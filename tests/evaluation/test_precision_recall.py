"""Improved precision and recall against a direct computation, distance by distance, in float64."""

import numpy as np
import pytest

from prunella.evaluation import precision_recall
from prunella.evaluation.precision_recall import find_covered, measure_precision, measure_recall

RANDOM = np.random.default_rng(0)


def one_by_one(points, centres) -> list[bool]:
    """Whether each point is no further from some centre than that one's third nearest other."""
    reach = [sorted(np.linalg.norm(a - b) for j, b in enumerate(centres) if j != i)[2] for i, a in enumerate(centres)]
    return [any(np.linalg.norm(p - c) <= r for c, r in zip(centres, reach, strict=True)) for p in points]


@pytest.mark.parametrize("block", [29, 2**23])
def test_shares_and_what_each_picture_adds_by_leaving_it_out(block, monkeypatch):
    monkeypatch.setattr(precision_recall, "MAX_BLOCK_ENTRIES", block)
    drawn, real = RANDOM.normal(0, 1.7, size=(61, 4)), RANDOM.normal(0.6, 1, size=(17, 4))
    inside, added = find_covered(drawn, real)
    assert inside.tolist() == one_by_one(drawn, real)
    left_out = np.array([np.mean(one_by_one(drawn, np.delete(real, i, 0))) for i in range(17)])
    assert left_out.min() < inside.mean() < left_out.max()  # without a picture some fall out, or come in
    pseudo = 17 * inside.mean() - 16 * left_out
    assert added == pytest.approx(pseudo - pseudo.mean() + inside.mean())
    for found, points, centres in (
        (measure_precision(drawn, real), drawn, real),
        (measure_recall(drawn, real), real, drawn),
    ):
        assert found.value == pytest.approx(np.mean(one_by_one(points, centres)))
        assert (len(found.generated_values), len(found.real_values)) == (61, 17)
        assert (found.generated_values.mean(), found.real_values.mean()) == pytest.approx((found.value, found.value))
    assert measure_precision(drawn, real).value != measure_recall(drawn, real).value


def test_a_line_by_hand():
    real = np.array([[0.0], [1], [2], [3], [10]])  # third nearest others: 3, 2, 2, 3 and 9 away
    drawn = np.array([[-3.0], [-3.1], [6.0], [18], [19.5]])
    assert find_covered(drawn, real)[0].tolist() == [True, False, True, True, False]
    assert measure_precision(drawn, real).value == 0.6


def test_pictures_without_fault_have_an_interval_too():
    rows = RANDOM.normal(size=(30, 3))
    found = measure_precision(rows, rows).estimate()
    assert (found.value, found.n) == (1, 30) and found.high == pytest.approx(1) and 0.7 < found.low < 0.95
    far = measure_precision(rows + 100, rows).estimate()
    assert far.value == far.low == 0 and 0.05 < far.high < 0.3


def test_intervals_hold_the_share_of_many_such_sets():
    rng = np.random.default_rng(1)
    found = [measure_precision(rng.normal(size=(80, 8)), rng.normal(size=(80, 8))).estimate() for _ in range(60)]
    value = np.mean([each.value for each in found])
    assert 0.5 < value < 0.99 and np.mean([each.low <= value <= each.high for each in found]) >= 0.93
    assert np.mean([each.high - each.low for each in found]) < 0.4


def test_a_ball_needs_others():
    with pytest.raises(ValueError, match="there are 4"):
        find_covered(np.zeros((2, 1)), np.zeros((4, 1)))
