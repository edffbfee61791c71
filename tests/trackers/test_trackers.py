"""Trackers together: a fault of one costs no run, and records reach each client once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.config import config_from
from hf_finetune.errors import ConfigError, UserError
from hf_finetune.trackers import TrackedRun, Tracker, Trackers, require_package
from hf_finetune.trackers.continuation import ContinuedTracker
from hf_finetune.trackers.options import TrackingOptions
from hf_finetune.trackers.records import Measured, read_record


class Failing(Tracker):
    """Fails in some places, and notes what it hears."""

    def __init__(self, *places: str) -> None:
        self.places, self.heard = places, list[str]()

    def on_record(self, record: Mapping[str, Any]) -> None:
        self._hear("on_record")

    def on_results(self) -> None:
        self._hear("on_results")

    def finish(self, status: str, error: str | None = None) -> None:
        self._hear("finish", f" {status}")

    def _hear(self, place: str, word: str = "") -> None:
        self.heard.append(place + word)
        if place in self.places:
            raise ConnectionError("no route\nto host")


@pytest.mark.parametrize("place", ["on_record", "on_results", "finish"])
def test_a_tracker_that_fails_warns_once_and_is_dropped(place: str):
    warnings: list[str] = []
    bad, good = Failing(place), Failing("never")
    trackers = Trackers({"bad": bad, "good": good}, warnings.append)
    with trackers.until_the_end():
        trackers.on_record({"step": 1})
        trackers.on_record({"step": 2})
        trackers.on_results()
    told = "trackers: bad failed and hears no more of this run (ConnectionError: no route)"
    assert warnings == [told]
    calls = {
        "on_record": ["on_record", "finish failed"],
        "on_results": ["on_record", "on_record", "on_results", "finish failed"],
        "finish": ["on_record", "on_record", "on_results", "finish finished"],
    }
    assert bad.heard == calls[place]  # closed once, and then left alone
    assert good.heard == ["on_record", "on_record", "on_results", "finish finished"]


def test_a_tracker_that_fails_again_when_it_is_closed_says_no_more():
    warnings: list[str] = []
    bad = Failing("on_record", "finish")
    trackers = Trackers({"bad": bad}, warnings.append)
    trackers.on_record({"step": 1})
    assert (bad.heard, len(warnings)) == (["on_record", "finish failed"], 1)


def test_a_fault_of_the_history_is_a_fault_of_the_run():
    trackers = Trackers({"jsonl": Failing("on_record")}, lambda _: None)
    with pytest.raises(ConnectionError):
        trackers.on_record({"step": 1})


def test_scalars_of_any_kind_keep_their_bits():
    record: Any = {
        "step": 3,
        "epoch": 0.5,
        "a": np.float32(0.1),
        "b": torch.tensor(0.1, dtype=torch.float64),
        "c": True,
        "d": np.int64(7),
    }
    measured = read_record(record)
    own = {n: v for n, v in measured.metrics.items() if not n.startswith("system/")}
    assert own == {"a": float(np.float32(0.1)), "b": 0.1, "c": 1, "d": 7}
    assert {type(value) for value in own.values()} == {int, float}
    assert (measured.step, measured.epoch) == (3, 0.5)


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nosuchtracker").mkdir()  # such as the folder that wandb leaves behind
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'hf_finetune\[mlflow\]'"):
        require_package("mlflow", "nosuchtracker")


def test_settings_of_a_tracker_that_is_not_named_are_a_mistake():
    tree: dict[str, Any] = {"data": {"name": "mnist"}, "model": {"name": "cnn"}}
    with pytest.raises(ConfigError, match=r"Write trackers: \[jsonl, comet\]"):
        config_from({**tree, "tracking": {"comet": {"tags": ["x"]}}})
    assert config_from({**tree, "tracking": {"comet": {}}}).trackers == ("jsonl",)
    with pytest.raises(ConfigError, match="api_key"):
        config_from({**tree, "trackers": ["comet"], "tracking": {"comet": {"api_key": "x"}}})


class Noting(ContinuedTracker):
    """Its client is a list."""

    def __init__(self, run: TrackedRun, num_logged: int, fault: Exception | None = None) -> None:
        super().__init__(run, num_logged)
        self.fault, self.logged, self.status = fault, list[Any](), ""

    def log_start(self) -> None:
        self.logged.append("start")
        if self.fault is not None:
            raise self.fault

    def log_record(self, measured: Measured) -> None:
        has_system = "system/cpu_percent" in measured.metrics
        self.logged.append((measured.step, measured.metrics["loss"], has_system))

    def finish(self, status: str, error: str | None = None) -> None:
        self.status = f"{status}: {error}"

    def is_gone(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)


def continue_run(folder: Path, warnings: list[str]) -> TrackedRun:
    """A run that goes on after its third record."""
    lines = [json.dumps({"step": step, "epoch": 1.0, "loss": step / 10}) for step in (1, 2, 3)]
    (folder / "history.jsonl").write_text("\n".join(lines) + "\n")
    return TrackedRun(folder, TrackingOptions(), num_records=3, warn=warnings.append)


@pytest.mark.parametrize("num_logged", range(7))
def test_whatever_a_client_has_already_it_ends_with_each_record_once(
    num_logged: int, tmp_path: Path
):
    tracker = Noting(continue_run(tmp_path, []), num_logged).begin()
    for step in (4, 5):
        tracker.on_record({"step": step, "epoch": 2.0, "loss": step / 10})
    expected = [(step, step / 10, step > 3) for step in range(1 + num_logged, 6)]
    assert tracker.logged == [*(["start"] if num_logged == 0 else []), *expected]


def test_what_a_client_does_not_take_is_said_and_the_rest_goes_on(tmp_path: Path):
    warnings: list[str] = []
    tracker = Noting(continue_run(tmp_path, warnings), 0, ValueError("too long")).begin()
    assert [entry[0] for entry in tracker.logged[1:]] == [1, 2, 3]
    (warning,) = warnings
    assert warning.endswith("did not take what the run begins with (ValueError: too long)")


def test_a_client_that_goes_away_at_the_start_is_closed(tmp_path: Path):
    tracker = Noting(continue_run(tmp_path, []), 0, ConnectionError("no route"))
    with pytest.raises(ConnectionError):
        tracker.begin()
    assert (tracker.logged, tracker.status) == (["start"], "failed: ConnectionError: no route")
