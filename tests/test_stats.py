import numpy as np
import pytest

from prunella.stats import Estimate, estimate_fraction, estimate_mean, estimate_paired_difference


@pytest.mark.parametrize(
    ("hits", "n", "expected"),
    [
        # Wilson's interval, computed by hand: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96.
        (5, 10, (0.5, 0.2366, 0.7634)),
        (0, 10, (0.0, 0.0, 0.2775)),
        (10, 10, (1.0, 0.7225, 1.0)),
        (90, 100, (0.9, 0.8256, 0.9448)),
    ],
)
def test_shares_and_their_intervals(hits, n, expected):
    found = estimate_fraction(hits, n)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=2e-4)
    assert found.n == n


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(3).normal(5, 2, size=401)
    found = estimate_mean(values)
    assert (found.value, found.n) == (pytest.approx(values.mean()), 401)
    half = 1.96 * values.std() / 401**0.5
    assert (found.high - found.value, found.value - found.low) == pytest.approx((half, half), rel=0.1)
    assert estimate_mean(values) == found  # the resampling is seeded


def test_values_that_do_not_vary_have_no_width():
    assert estimate_mean([0.25] * 3) == Estimate(0.25, 3, 0.25, 0.25) and estimate_mean([7.0]) == Estimate(
        7.0, 1, 7.0, 7.0
    )


def test_a_paired_difference_is_narrower_than_the_values_apart():
    noise = np.random.default_rng(0).normal(size=97)
    found = estimate_paired_difference(noise + 0.5, noise + 0.01 * np.arange(97))
    assert found.value == pytest.approx(0.5 - 0.01 * 48) and found.high - found.low < 0.15
    assert estimate_mean(noise).high - estimate_mean(noise).low > 0.3
    with pytest.raises(ValueError, match="3 and 2"):
        estimate_paired_difference([1, 2, 3], [1, 2])


def test_paired_shares_by_hand():
    # Bonett & Price: 3 of 10 won, 1 lost: (4/12 - 2/12) ± 1.96·sqrt((6/12 - (2/12)²) / 12).
    after = [True] * 3 + [False] + [True] * 6
    before = [False] * 3 + [True] + [True] * 6
    found = estimate_paired_difference(after, before)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 1 / 6 - 0.38879, 1 / 6 + 0.38879), abs=1e-4)
    same = estimate_paired_difference([True] * 64, [True] * 64)
    assert same.value == 0 and same.low == -same.high < 0  # none differs, yet one might have


def test_reports_have_six_digits():
    assert Estimate(1 / 3, 7, 0.0, 123456.789).to_report_dict() == {
        "value": 0.333333,
        "n": 7,
        "low": 0.0,
        "high": 123457.0,
    }
