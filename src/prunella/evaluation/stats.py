"""Shares with their 95 % interval."""

from math import sqrt

Z = 1.959964


def share(hits: int, n: int) -> dict[str, float]:
    """{"value", "n", "low", "high"}: a share and its Wilson score interval (Wilson 1927), sound near 0 and 1."""
    value = hits / n
    middle = (value + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * sqrt(value * (1 - value) / n + Z * Z / (4 * n * n))
    low = 0.0 if hits == 0 else middle - half
    high = 1.0 if hits == n else middle + half
    return {"value": round(value, 4), "n": n, "low": round(low, 4), "high": round(high, 4)}
