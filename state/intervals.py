"""95 % intervals of means and shares."""

import math
import statistics
from collections.abc import Sequence

__all__ = ["Z", "interval_of_mean", "quantile_of_t", "wilson"]

Z = 1.96  # two-sided 95 % of a normal distribution
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """Mean ± t s / √n, s the standard deviation with n - 1; none of fewer than two values.

    Source: Student, The probable error of a mean, Biometrika 1908.
    """
    if len(values) < 2:
        return None, None
    mean = statistics.fmean(values)
    half = quantile_of_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def wilson(share: float, count: int, z: float = Z) -> tuple[float, float]:
    """Interval of a proportion p over n trials, within [0, 1] also where p is 0 or 1 (Wilson 1927).

    Formula: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    squared = z * z / count
    centre = share + squared / 2
    half = z * math.sqrt(share * (1 - share) / count + squared / (4 * count))
    # Rounding may put a bound an ulp outside.
    return max(0.0, (centre - half) / (1 + squared)), min(1.0, (centre + half) / (1 + squared))


def quantile_of_t(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t for so many degrees of freedom, from 1.

    Beyond 30 by two terms of its expansion (Abramowitz and Stegun 1964, 26.7.5):
    z + (z³ + z) / 4 degrees + (5z⁵ + 16z³ + 3z) / 96 degrees².
    """
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    return Z + (Z**3 + Z) / (4 * degrees) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * degrees**2)
