import pytest

from prunella.evaluation.stats import share


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
    assert tuple(share(hits, n)[name] for name in ("value", "low", "high")) == pytest.approx(expected, abs=2e-4)
    assert share(hits, n)["n"] == n
