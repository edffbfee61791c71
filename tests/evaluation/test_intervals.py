"""The Wilson interval against scipy's, and at its edges."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from hf_finetune.evaluation.intervals import wilson_interval


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("successes", "total"), [(0, 1), (1, 1), (0, 40), (40, 40), (7, 9), (4873, 5000), (1, 10**7)]
)
def test_equals_scipy(successes: int, total: int, confidence: float) -> None:
    expected = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, total, confidence) == pytest.approx(
        (expected.low, expected.high), rel=1e-9, abs=1e-15
    )


def test_stays_within_0_and_1_and_reaches_them_exactly() -> None:
    for total in range(1, 200):
        assert wilson_interval(0, total)[0] == 0.0
        assert wilson_interval(total, total)[1] == 1.0
        for successes in (1, total - 1, total):
            low, high = wilson_interval(successes, total)
            assert 0 <= low <= successes / total <= high <= 1


@pytest.mark.parametrize(
    ("successes", "total", "confidence"),
    [(-1, 3, 0.95), (4, 3, 0.95), (0, 0, 0.95), (1, 2, 0.0), (1, 2, 1.0)],
)
def test_refuses_impossible_counts(successes: int, total: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="need"):
        wilson_interval(successes, total, confidence)
