"""The progress bar of everything that takes a while; shared by the rooms, silent in files."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(total: int, what: str, unit: str, delay_seconds: float = 0) -> tqdm[Any]:
    """A bar on standard error, where that is a terminal; it leaves nothing behind.

    Args:
        total: How many there are.
        what: What is going on, such as `training`.
        unit: What is counted.
        delay_seconds: What is done sooner shows no bar.
    """
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        file=sys.stderr,
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
        leave=False,
        delay=delay_seconds,
        bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt} of {total_fmt}, {remaining} left",
    )
