"""Lets freed memory stay with the process on Linux, ready for the next step of training.

glibc hands large blocks, and the top of its heap, back to the system as soon as they are free; a
step then gets its activations page by page again, each page cleared and mapped anew. What that
costs depends on the sizes that the process has met before; `benchmarks/README.md` has figures.
"""

from __future__ import annotations

import ctypes
import os
import sys

# malloc.h: M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = -1
_OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
# A larger block goes back at once: few steps make one. Older glibcs take no more than the second.
_LARGEST_KEPT_BYTES = (2**30, 2**25)


def keep_freed_memory() -> bool:
    """Asks the C library to keep what is freed; for the rest of the process's life.

    Its own settings go first: where one of `_OWN_SETTINGS` or `GLIBC_TUNABLES` speaks of this,
    nothing is changed.

    Returns:
        Whether it does. False where there is no glibc (macOS, Windows, musl).

    Source: `man 3 mallopt`.
    """
    if sys.platform != "linux" or _has_own_settings():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT_BYTES)
        and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
    )


def _has_own_settings() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "glibc.malloc" in tunables or any(name in os.environ for name in _OWN_SETTINGS)
