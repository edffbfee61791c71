"""Lets a scheduler stop what trains as Ctrl-C does.

Place: the verbs that train run inside it; imports nothing heavy.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stoppable() -> Iterator[None]:
    """Makes SIGTERM leave with 143, through the code that writes down how a run ended."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
