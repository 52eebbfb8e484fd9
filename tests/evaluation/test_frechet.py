import numpy as np
import pytest
from scipy.linalg import sqrtm

from prunella.evaluation.frechet import measure_frechet


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_distance_of_one_feature_by_hand():
    # Variances (over N − 1) 2 and 2, means 0 and 3.
    assert measure_frechet(column(-1, 1), column(2, 4)).value == pytest.approx(9)
    # Variances 2 and 8: 2 + 8 − 2 √16.
    assert measure_frechet(column(-1, 1), column(-2, 2)).value == pytest.approx(2)


def test_distance_of_two_features_by_hand():
    # Covariances diag(4/3, 1/3) and diag(1/3, 4/3) (over N − 1 = 3 of ±√2, ±√½): 10/3 − 2 (2/3 + 2/3).
    wide = np.array([[2**0.5, 0], [-(2**0.5), 0], [0, 0.5**0.5], [0, -(0.5**0.5)]])
    assert measure_frechet(wide, wide[:, ::-1]).value == pytest.approx(10 / 3 - 8 / 3)
    assert measure_frechet(wide, wide).value == pytest.approx(0, abs=1e-7)


def test_distance_as_scipy_takes_the_root():
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(90, 7)) @ rng.normal(size=(7, 7)), rng.normal(0.3, 2, size=(70, 7))
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    apart = np.sum((one.mean(0) - other.mean(0)) ** 2)
    expected = apart + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert measure_frechet(one.astype(np.float32), other.astype(np.float32)).value == pytest.approx(expected, rel=1e-5)
    assert measure_frechet(one, other).value == pytest.approx(expected, rel=1e-10)


def test_what_a_picture_adds_is_the_jackknife_s_where_pictures_are_many():
    rng = np.random.default_rng(6)
    one, other = rng.normal(size=(400, 3)) * [1, 2, 3], rng.normal(0.4, 1.5, size=(300, 3))
    found = measure_frechet(one, other)
    assert found.generated_values.mean() == pytest.approx(found.value) and found.real_values.mean() == pytest.approx(
        found.value
    )
    for some, added, leave in (
        (one, found.generated_values, lambda i: measure_frechet(np.delete(one, i, 0), other).value),
        (other, found.real_values, lambda i: measure_frechet(one, np.delete(other, i, 0)).value),
    ):
        n = len(some)
        left_out = np.array([(n - 1) * (found.value - leave(i)) for i in range(60)])
        assert np.corrcoef(left_out, added[:60] - found.value)[0, 1] > 0.999
        assert left_out.std() == pytest.approx(added[:60].std(), rel=0.03)


def test_intervals_hold_the_distance_of_the_distributions():
    rng, held = np.random.default_rng(7), []
    for _ in range(40):  # means 1 apart in each of two features, and variances 1 and 4: 2 + 2 (1 + 4 − 4)
        estimate = measure_frechet(rng.normal(1, 1, size=(300, 2)), rng.normal(0, 2, size=(300, 2))).estimate()
        held.append(estimate.low < 4 < estimate.high)
    assert np.mean(held) >= 0.85


def test_fewer_pictures_than_features_still_give_a_distance():
    few = np.random.default_rng(0).normal(size=(5, 64))
    assert measure_frechet(few, few).value == pytest.approx(0, abs=1e-4)
    assert measure_frechet(few, few + 2).value == pytest.approx(4 * 64, rel=1e-4)


def test_one_picture_is_too_few():
    with pytest.raises(ValueError, match="5 and 1"):
        measure_frechet(np.zeros((5, 3)), np.zeros((1, 3)))
