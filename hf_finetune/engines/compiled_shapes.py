"""How many shapes oneDNN keeps compiled, on a CPU.

It compiles what a network computes for each new width of a batch, about 50 pieces of code, and
keeps the latest. For short clips that takes a tenth of a step; for clips of several seconds it
doesn't count, while the pieces lie scattered among large activations and keep their memory from
being used again. `benchmarks/README.md` has figures.
"""

from __future__ import annotations

import os

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
FEW, MANY = "256", "2048"
_SHORT_SECONDS = 2.0
_own_choice = False


def keep_few_shapes() -> None:
    """Lets oneDNN keep few shapes, unless the environment says how many.

    Called when the package is imported: oneDNN reads it when torch first computes with it.
    """
    global _own_choice  # noqa: PLW0603  # as lasting as the setting
    _own_choice = NAME not in os.environ
    if _own_choice:
        os.environ[NAME] = FEW


def keep_shapes_of(longest_seconds: float) -> None:
    """Lets oneDNN keep many shapes where clips are short; heard if nothing is computed yet.

    Args:
        longest_seconds: Of the clips that are trained on, as they are cut.
    """
    if _own_choice:
        os.environ[NAME] = MANY if longest_seconds <= _SHORT_SECONDS else FEW
