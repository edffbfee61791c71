"""How far a measured fraction may lie from the true one.

Place: the metrics call it, so that every accuracy in a report stands with its interval.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a fraction.

    Unlike the textbook ± interval it stays inside 0…1 and holds its level near 0 and 1, where
    good classifiers are. It speaks of examples drawn at random: where examples come in groups
    (a speaker's clips), the truth is less certain than this says. Written out, because importing
    scipy.stats costs more than half a second.

    Args:
        successes: Examples that came out right, 0…total.
        total: Examples in all, at least 1.
        confidence: Probability that the interval covers the true fraction, between 0 and 1.

    Returns:
        Lower and upper end, each 0…1.

    Raises:
        ValueError: A count or the confidence is out of its range.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
        JASA 22 (1927), 209-212; as `proportion_ci(method="wilson")` of scipy.stats.binomtest.
    """
    if not 0 <= successes <= total or total < 1 or not 0 < confidence < 1:
        raise ValueError(f"need 0 <= {successes} <= {total} >= 1 and 0 < {confidence} < 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    center = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) * z / (1 + z * z / total)
    # At the two extremes one end is exactly 0 or 1; rounding would miss it by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, center - reach)
    high = 1.0 if successes == total else min(1.0, center + reach)
    return low, high
