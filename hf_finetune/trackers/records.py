"""Takes a record of the history apart, into plain numbers under the names that every tracker uses.

Place: each tracker calls it for each record, so that values, steps and epochs are the same in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_finetune.trackers import Record
from hf_finetune.trackers.system import measure_system


@dataclass(frozen=True)
class Measured:
    """A record, ready to be sent.

    Attributes:
        step: Optimiser steps taken.
        epoch: The same in epochs.
        metrics: Numbers by name: the record's own, and what the machine does.
    """

    step: int
    epoch: float
    metrics: dict[str, float]


def read_record(record: Record) -> Measured:
    """The record's step, epoch and metrics; NumPy's and torch's scalars become Python's own."""
    metrics = {n: plain_number(v) for n, v in record.items() if n not in ("step", "epoch")}
    return Measured(int(record["step"]), float(record["epoch"]), {**metrics, **measure_system()})


def plain_number(value: Any) -> float | int:
    """A number of any kind as Python's own, every bit kept; true is 1."""
    number: float | int = value.item() if hasattr(value, "item") else value
    return int(number) if isinstance(number, bool) else number
