"""What the trackers share whose clients can't take a record back: Trackio, W&B and MLflow.

Place: their base. A resumed run makes the records after its last checkpoint again; here they are
counted, so that each reaches the client once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Self

from hf_finetune.trackers import Record, TrackedRun, Tracker, close_failed, tell_error
from hf_finetune.trackers.jsonl import read_history
from hf_finetune.trackers.records import Measured, read_record


class ContinuedTracker(Tracker):
    """Logs every record of a run once, and goes on where one thing isn't taken.

    Args:
        run: What to log.
        num_logged: Records that the client has: the first ones of the run.
    """

    def __init__(self, run: TrackedRun, num_logged: int) -> None:
        self.run = run
        self.num_logged = num_logged
        self.num_heard = 0

    def begin(self) -> Self:
        """Logs what a run begins with, and the records before the checkpoint that are missing."""
        try:
            if not self.num_logged:
                with self.sparing("what the run begins with"):
                    self.log_start()
            for record in read_history(self.run.directory)[: self.run.num_records]:
                measured = read_record(record)
                # What the machine does now is not what it did then.
                own = {name: v for name, v in measured.metrics.items() if name in record}
                self._hear(replace(measured, metrics=own))
        except Exception as error:
            close_failed(self, tell_error(error))
            raise
        return self

    def on_record(self, record: Record) -> None:
        """Logs the record, unless the client has it from before the run was resumed."""
        self._hear(read_record(record))

    @abstractmethod
    def log_start(self) -> None:
        """Logs what comes before the first record."""

    @abstractmethod
    def log_record(self, measured: Measured) -> None:
        """Logs one record that the client doesn't have."""

    def is_gone(self, error: Exception) -> bool:
        """Whether an error says that nothing else will arrive either."""
        return False

    @contextmanager
    def sparing(self, what: str) -> Iterator[None]:
        """Where one thing isn't taken, says so, and lets the rest be logged."""
        try:
            yield
        except Exception as error:
            if self.is_gone(error):
                raise
            name = type(self).__module__.rpartition(".")[2]
            self.run.warn(f"trackers: {name} did not take {what} ({tell_error(error)})")

    def _hear(self, measured: Measured) -> None:
        if self.num_heard >= self.num_logged:
            self.log_record(measured)
        self.num_heard += 1  # only now: where Ctrl-C falls in between, twice is better than never
