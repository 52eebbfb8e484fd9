import pytest

from prunella.bench.trained_plans import correlate_errors
from prunella.errors import UserError


def rows(*pairs):
    return [{"before": before, "after": {"value": after}} for before, after in pairs]


def test_the_rank_correlation_of_errors_before_and_after_by_hand():
    found = correlate_errors(rows((1, 10), (2, 30), (3, 20), (4, 40), (5, 50)))
    assert found["rank"] == pytest.approx(1 - 6 * 2 / (5 * 24))  # squared differences of ranks: 0, 1, 1, 0, 0
    # atanh(0.9) = 1.4722; 1.96 · sqrt(1.06 / 2) = 1.4269
    assert (found["low"], found["high"]) == (pytest.approx(0.0453, abs=2e-4), pytest.approx(0.9939, abs=2e-4))


def test_too_few_plans_are_refused():
    with pytest.raises(UserError, match="4 plans"):
        correlate_errors(rows(*[(i, i) for i in range(4)]))
