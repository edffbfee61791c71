"""The evaluation room: predictions of a split and the numbers computed from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# What may choose the best model, and whether more is better.
GREATER_IS_BETTER = {
    "accuracy": True,
    "macro_f1": True,
    "macro_precision": True,
    "macro_recall": True,
    "weighted_f1": True,
    "weighted_precision": True,
    "weighted_recall": True,
    "loss": False,
}


@dataclass(frozen=True)
class Metric:
    """A metric of the user's own.

    Attributes:
        compute: Takes logits float32 `[N, classes]` and labels int64 `[N]`, answers with a number.
        greater_is_better: Whether more is better.
    """

    compute: Callable[[np.ndarray, np.ndarray], float]
    greater_is_better: bool


@dataclass(frozen=True)
class Predictions:
    """What a model said about every row of a split, in the split's order.

    Attributes:
        split: train, validation or test.
        ids: Names of the examples.
        labels: int64 `[N]`, the truth.
        logits: float32 `[N, classes]`.
        groups: Group key of each row by column name (may be empty).
    """

    split: str
    ids: list[str]
    labels: np.ndarray
    logits: np.ndarray
    groups: dict[str, list[str]]
