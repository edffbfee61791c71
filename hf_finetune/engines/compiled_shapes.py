"""How many shapes oneDNN keeps compiled, on a CPU.

It compiles what a network computes for each new width of a batch, 50 pieces of code and more, and
keeps the latest. Where widths come again (`features.clip_lengths.common_width`) room for all of
them makes steps on short clips a tenth faster. Where they don't, it makes nothing faster, and the
pieces come to lie among activations and keep their memory from being used again: gigabytes.
`benchmarks/README.md` has figures.
"""

from __future__ import annotations

import os

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_FEW, _MANY = "256", "2048"  # left to itself, oneDNN keeps 1024
_own_choice = False


def keep_few_shapes() -> None:
    """Lets oneDNN keep few shapes, unless the environment says how many.

    Called when the package is imported: oneDNN reads it when torch first computes with it.
    """
    global _own_choice  # noqa: PLW0603  # as lasting as the setting
    _own_choice = NAME not in os.environ
    if _own_choice:
        os.environ[NAME] = _FEW


def keep_shapes(come_again: bool) -> None:
    """Lets oneDNN keep the shapes of a run; heard if the process has computed nothing yet.

    Args:
        come_again: Whether batches come in a few widths only.
    """
    if _own_choice:
        os.environ[NAME] = _MANY if come_again else _FEW
