"""Run directories to compare, written by the toolkit's own writers, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_finetune.config import config_from
from hf_finetune.runs.run_dir import RunDir, create_run_dir
from hf_finetune.trackers.jsonl import JsonlTracker

SPLIT = {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e"]}


@dataclass
class Scored:
    """A run to write.

    Attributes:
        accuracies: Of validation, an evaluation each; the best one counts.
        test: Test accuracy; None where the run never came to it.
        settings: `section__key=value`, as the fixture make_config takes them.
        status: As in run.json.
        split: Ids by split, as in split.csv; None writes none.
        fingerprint: Of the data.
        more: Further scores of the best evaluation, by name.
    """

    accuracies: Sequence[float]
    test: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    status: str = "finished"
    split: Mapping[str, Sequence[str]] | None = field(default_factory=lambda: SPLIT)
    fingerprint: str = "f" * 16
    more: Mapping[str, float] = field(default_factory=dict)


def write_run(folder: Path, run: Scored) -> RunDir:
    """Writes a run directory below a folder, as a run that came so far would leave it."""
    tree: dict[str, Any] = {
        "name": "small",
        "data": {"name": "corrupt_mnist", "root": "digits"},
        "model": {"name": "cnn"},
        "run": {"directory": str(folder)},
    }
    for key, value in run.settings.items():
        *path, last = key.split("__")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    written = create_run_dir(config_from(tree))
    _write_history(written, run)
    if run.split is not None:
        _write_split(written.path / "split.csv", run.split)
    if run.test is not None:
        best = {"accuracy": max(run.accuracies), "loss": 1 - max(run.accuracies), **run.more}
        test = {"accuracy": run.test, "loss": 1 - run.test, "per_class": {"0": {"f1": 0.5}}}
        written.write_json("metrics.json", {"validation": best, "test": test})
    if run.status == "running":
        written.set_status("running", data_fingerprint=run.fingerprint)
    else:
        written.finish(run.status, data_fingerprint=run.fingerprint)
    return written


def _write_history(written: RunDir, run: Scored) -> None:
    tracker = JsonlTracker(written.path / "history.jsonl", 0)
    for number, accuracy in enumerate(run.accuracies, 1):
        step = 10 * number
        tracker.on_record({"step": step, "epoch": float(number), "train/loss": 1.1 - accuracy})
        tracker.on_record(
            {
                "step": step,
                "epoch": float(number),
                "validation/accuracy": accuracy,
                "validation/loss": 1 - accuracy,
                "is_best": accuracy == max(run.accuracies[:number]),
                **{f"validation/{name}": value for name, value in run.more.items()},
            }
        )
    tracker.finish("finished")


def _write_split(path: Path, split: Mapping[str, Sequence[str]]) -> None:
    rows = sorted((i, name, f"content of {i}") for name, ids in split.items() for i in ids)
    lines = ["id,split,content", *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
