"""95 % confidence intervals. Imports no JAX."""

from __future__ import annotations

CONFIDENCE = 0.95


def half_width(error: float, count: int) -> float:
    """Half the width of the interval of a mean, by Student's t.

    Args:
      error: standard error of the mean.
      count: number of values, at least 2.

    >>> round(half_width(1.0, 2), 2), round(half_width(1.0, 1000), 2)
    (12.71, 1.96)
    """
    from scipy.special import stdtrit  # quantile of Student's t; importing it takes a third of a second

    return float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * error
