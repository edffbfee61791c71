"""The history in the run directory: one JSON object a line, flushed as it comes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_finetune.trackers import TrackedRun, Tracker
from hf_finetune.trackers.options import TrackingOptions

HISTORY = "history.jsonl"


class JsonlTracker(Tracker):
    """Appends records to `history.jsonl`.

    Args:
        path: The file; created where it is missing.
        num_records: Lines to keep of a file that is there.
    """

    def __init__(self, path: Path, num_records: int) -> None:
        lines = path.read_text().splitlines(keepends=True)[:num_records] if path.exists() else []
        # Beside it first: a kill in between must not cost what was there.
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_text("".join(lines), encoding="utf-8")
        unfinished.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def on_record(self, record: Mapping[str, float | int | bool]) -> None:
        """Writes one line."""
        self._file.write(json.dumps(dict(record)) + "\n")
        self._file.flush()

    def finish(self, status: str, error: str | None = None) -> None:
        """Closes the file."""
        self._file.close()


def check(options: TrackingOptions) -> None:
    """Needs nothing."""


def start(run: TrackedRun) -> JsonlTracker:
    """Opens the history of a run; see `trackers.start_trackers`."""
    return JsonlTracker(run.directory / HISTORY, run.num_records)


def read_history(directory: Path) -> list[dict[str, Any]]:
    """The records of a run; a last line that was cut off by a kill is left out."""
    records = []
    for line in (directory / HISTORY).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records
