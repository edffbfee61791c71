"""Random numbers that depend on what they are for, and on nothing that was drawn before.

Augmentation draws from here: an example looks the same in whatever batch, worker or resumed run it
comes up, and anew in each epoch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_STEP = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, SplitMix64's increment
_WORD = 0xFFFFFFFFFFFFFFFF


def uniform(
    seed: int,
    epochs: ArrayLike,
    indices: ArrayLike,
    draw: int,
    numbers: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """One uniform number for each example, a function of its four keys alone.

    Args:
        seed: The run's seed.
        epochs: int64 `[B]`, epoch of each example.
        indices: int64 `[B]`, row of each example in its split.
        draw: What the number is for; different draws are independent.
        numbers: int64 `[B]`, for a draw that takes several for the same example: which of them.

    Returns:
        float64 `[B]` in [0, 1), multiples of 2^-53.

    Source:
        Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014, §5
        (SplitMix64), used as a hash: each key is added to the state, which is then mixed.
    """
    state = np.zeros(1, dtype=np.uint64)
    for key in (seed, draw):
        state = _mix(state + np.uint64((key + _STEP) & _WORD))
    for keys in (epochs, indices) if numbers is None else (epochs, indices, numbers):
        state = _mix(state + (np.asarray(keys).astype(np.uint64) + np.uint64(_STEP)))
    return np.ldexp((state >> np.uint64(11)).astype(np.float64), -53)


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of the 64-bit words `[...]` that scatters every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
