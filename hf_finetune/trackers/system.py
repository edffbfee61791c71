"""What the run asks of its machine: processor and memory, measured when a record is logged.

Place: trackers log it beside each record. No thread, and nothing that names the machine.
"""

from __future__ import annotations

import sys
from functools import cache

import psutil  # type: ignore[import-untyped]


def measure_system() -> dict[str, float]:
    """Load and memory since the last call.

    Returns:
        `system/cpu_percent` (of all cores, 0…100), `system/process_memory_bytes` (resident), and
        where torch uses a GPU `system/gpu_memory_bytes` (the most that torch has held so far).
    """
    process = _process()
    measured = {
        "system/cpu_percent": psutil.cpu_percent(),
        "system/process_memory_bytes": float(process.memory_info().rss),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        measured["system/gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated())
    return measured


@cache
def _process() -> psutil.Process:
    psutil.cpu_percent()  # the first answer is always 0: it counts from the last call
    return psutil.Process()
