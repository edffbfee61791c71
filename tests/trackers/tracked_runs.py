"""Runs for trackers to track, and what a client must hold of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_finetune.engines.checkpoints import find_latest, read_progress
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, load_unfinished_run
from hf_finetune.trackers import Example, TrackedRun
from hf_finetune.trackers.jsonl import read_history
from hf_finetune.trackers.options import TrackingOptions

Point = tuple[tuple[str, int], float]
ODD_NAMES = ("don't know", "cats & dogs", "cats + dogs")


def needs(package: str) -> None:
    """Skips the tests of a client that isn't there; `make test-trackers` has all of them."""
    if os.environ.get("HF_FINETUNE_ALL_TRACKERS"):
        import_module(package)
    else:
        pytest.importorskip(package)


class Stop:
    """Ctrl-C after a step."""

    def on_step(self, step: int, *_: object) -> None:
        if step == 9:
            raise KeyboardInterrupt

    def on_record(self, _: object) -> None:
        pass


def run_cut_off(config: Any) -> RunDir:
    """A run that is stopped some records after its checkpoint, and then resumed."""
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Stop(),))
    unfinished = load_unfinished_run(Path(config.run.directory) / "small")
    checkpoint = find_latest(unfinished.checkpoints)
    assert checkpoint is not None
    assert 0 < read_progress(checkpoint)["num_records"] < len(read_history(unfinished.path))
    return finetune(unfinished.config, resume_from=unfinished.path, quiet=True).run


def run_with_odd_names(make_config: Callable[..., Any], root: Path, **settings: Any) -> RunDir:
    """A short run on images whose classes are named as people name them."""
    random = np.random.default_rng(0)
    for number, name in enumerate(ODD_NAMES):
        (root / name).mkdir(parents=True)
        for count in range(20):
            pixels = random.integers(80 * number, 80 * number + 80, (28, 28), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{count}.png")
    data = {"name": "image_folder", "root": str(root)}
    return finetune(make_config(data=data, train__max_steps=2, **settings), quiet=True).run


class Clips:
    """A gallery of sound: a tone, not as loud as can be."""

    def training_examples(self, count: int) -> list[Example]:
        tone = 0.25 * np.sin(np.arange(4000, dtype=np.float32) / 5)
        return [Example("one.wav", "yes", tone.astype(np.float32), 8000)][:count]

    def test_examples(self, rows: Sequence[int]) -> list[Example]:
        return []


def track_again(run: RunDir, options: TrackingOptions, warnings: list[str]) -> TrackedRun:
    """A finished run, for a tracker that is started by hand."""
    return TrackedRun(run.path, options, gallery=Clips(), warn=warnings.append)


def assert_holds_history(
    points: Iterable[Point], run: RunDir, kept: Callable[[float], float] = float
) -> None:
    """Every number of the history is there, to the bit, and no number twice.

    Args:
        points: Name, step and value of all that the client has.
        run: The run.
        kept: What the client makes of a number.
    """
    records = read_history(run.path)
    names = {name for record in records for name in record} - {"step", "epoch"}
    found = [(place, value) for place, value in points if place[0] in names]
    expected = [
        ((name, record["step"]), kept(record[name]))
        for record in records
        for name in sorted(names & record.keys())
    ]
    assert sorted(place for place, _ in found) == sorted(place for place, _ in expected)
    assert _untimed(found) == _untimed(expected)


def read_points(rows: Iterable[dict[str, Any]]) -> list[Point]:
    """Every number of a client's rows, each with its name and the row's step."""
    return [
        ((name, row["step"]), value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("step", "epoch")
    ]


def _untimed(points: Iterable[Point]) -> dict[tuple[str, int], float]:
    """Without what differs when it is done again."""
    return {place: value for place, value in points if "second" not in place[0]}
