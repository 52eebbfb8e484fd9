import numpy as np
import pytest

from prunella.evaluation.metrics.base import Unavailable
from prunella.evaluation.metrics.latent_frechet import build, estimate, frechet


def column(*values):
    return np.array(values, dtype=float)[:, None]


def test_distance_of_one_feature_by_hand():
    # Variances (over N − 1) 2 and 2, means 0 and 3.
    assert frechet(column(-1, 1), column(2, 4)) == pytest.approx(9)
    # Variances 2 and 8: 2 + 8 − 2 √16.
    assert frechet(column(-1, 1), column(-2, 2)) == pytest.approx(2)


def test_distance_of_two_features_by_hand():
    # Covariances diag(4/3, 1/3) and diag(1/3, 4/3) (over N − 1 = 3 of ±√2, ±√½): 10/3 − 2 (2/3 + 2/3).
    wide = np.array([[2**0.5, 0], [-(2**0.5), 0], [0, 0.5**0.5], [0, -(0.5**0.5)]])
    assert frechet(wide, wide[:, ::-1]) == pytest.approx(10 / 3 - 8 / 3)
    assert frechet(wide, wide) == pytest.approx(0, abs=1e-7)


def test_fewer_pictures_than_features_still_give_a_distance():
    few = np.random.default_rng(0).normal(size=(5, 64))
    assert frechet(few, few) == pytest.approx(0, abs=1e-4)
    assert frechet(few, few + 2) == pytest.approx(4 * 64, rel=1e-4)


def test_one_picture_is_too_few():
    with pytest.raises(ValueError, match="5 and 1"):
        frechet(np.zeros((5, 3)), np.zeros((1, 3)))


def test_fewer_than_ten_pictures_a_feature_are_refused(subject):
    with pytest.raises(Unavailable, match=r"640 of each .* 10 a feature"):
        build(subject)


def test_many_pictures_have_a_value_with_an_interval():
    rng = np.random.default_rng(0)
    found = estimate(rng.normal(1, 1, size=(60, 2)), rng.normal(size=(70, 2)))
    assert found.n == 60 and found.low < 2 < found.high and found.low < found.value < found.high
