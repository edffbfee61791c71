"""A metric of one's own: how often the truth is among the two likeliest classes."""

from __future__ import annotations

import numpy as np

GREATER_IS_BETTER = True


def compute(logits: np.ndarray, labels: np.ndarray) -> float:
    """The metric of a split, of logits `[N, classes]` and label ids `[N]`."""
    likeliest = np.argsort(logits, axis=1)[:, -2:]
    return float((likeliest == labels[:, None]).any(axis=1).mean())
