"""The trackers room: where a run's numbers are sent while it trains; one file a tracker.

Contract of a kind (`hf_finetune/trackers/<name>.py`): `start(directory, num_records) -> Tracker`.
Only the main process starts trackers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.registry import kind

if TYPE_CHECKING:
    from torch import Tensor, nn


class Tracker(ABC):
    """Takes the records of one run; a listener of the engines."""

    def on_step(self, step: int, loss: Tensor, model: nn.Module) -> None:  # noqa: B027
        """After each step; most trackers care for records alone."""

    @abstractmethod
    def on_record(self, record: Mapping[str, float | int | bool]) -> None:
        """Takes one record: `step`, `epoch`, and metrics named `split/name`."""

    @abstractmethod
    def finish(self) -> None:
        """The run has ended."""


def start_trackers(names: tuple[str, ...], directory: Path, num_records: int) -> list[Tracker]:
    """Starts trackers by name.

    Args:
        names: Kinds of this room; `jsonl` is always among them, since the run directory needs it.
        directory: The run directory.
        num_records: Records that a resumed run already has; later ones are dropped.
    """
    wanted = ("jsonl", *(name for name in names if name != "jsonl"))
    trackers: list[Tracker] = [kind("trackers", n).start(directory, num_records) for n in wanted]
    return trackers
