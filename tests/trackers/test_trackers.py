"""Trackers together, and those beside Comet, each read back with its own package's reader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.config import config_from
from hf_finetune.errors import ConfigError, UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, load_unfinished_run
from hf_finetune.trackers import Tracker, Trackers, require_package
from hf_finetune.trackers.jsonl import read_history
from hf_finetune.trackers.records import read_record

Points = dict[tuple[str, int], float]


class Failing(Tracker):
    """Fails in one place, and counts what it hears."""

    def __init__(self, place: str) -> None:
        self.place, self.heard = place, 0

    def on_record(self, record: Mapping[str, Any]) -> None:
        self._hear("on_record")

    def on_results(self) -> None:
        self._hear("on_results")

    def finish(self, status: str, error: str | None = None) -> None:
        self._hear("finish")

    def _hear(self, place: str) -> None:
        self.heard += 1
        if place == self.place:
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
    assert bad.heard == {"on_record": 1, "on_results": 3, "finish": 4}[place]
    assert good.heard == 4


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


class Stop:
    """Ctrl-C after a step."""

    def on_step(self, step: int, *_: object) -> None:
        if step == 9:
            raise KeyboardInterrupt

    def on_record(self, _: object) -> None:
        pass


def run_cut_off(config: Any) -> RunDir:
    """A run that is stopped after its checkpoint, and then resumed."""
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Stop(),))
    unfinished = load_unfinished_run(Path(config.run.directory) / "small")
    return finetune(unfinished.config, resume_from=unfinished.path, quiet=True).run


def in_history(run: RunDir) -> Points:
    return {
        (name, record["step"]): float(value)
        for record in read_history(run.path)
        for name, value in record.items()
        if name not in ("step", "epoch") and "second" not in name
    }


def test_tensorboard_shows_the_history(make_config: Callable[..., Any]):
    pytest.importorskip("tensorboard")
    config = make_config(trackers=["tensorboard"], tracking__tensorboard__examples=2)
    run = run_cut_off(config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.path / "tensorboard"), {"scalars": 0, "images": 0})
    events.Reload()
    points = [
        ((tag, event.step), event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    ]
    expected = in_history(run)
    found = [(place, value) for place, value in points if place in expected]
    assert len(found) == len(expected)  # what the resumed run did again has replaced the old
    assert dict(found) == {place: float(np.float32(v)) for place, v in expected.items()}
    test = np.float32(run.metrics["test"]["accuracy"])
    assert (("test/accuracy", run.metrics["steps"]), test) in points
    assert len([tag for tag in events.Tags()["images"] if tag.startswith("training/")]) == 2
    plugins = events.summary_metadata["_hparams_/session_start_info"]
    assert plugins.plugin_data.plugin_name == "hparams"


def test_a_tracker_that_cannot_start_costs_a_warning(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("tensorboard")
    (tmp_path / "taken").write_text("a file")
    config = make_config(
        trackers=["jsonl", "tensorboard"],
        tracking__tensorboard__directory=str(tmp_path / "taken"),
        train__max_steps=2,
    )
    run = finetune(config, quiet=True).run
    (warning,) = run.status["warnings"]
    assert warning.startswith("trackers: tensorboard could not start, and hears nothing (")
    assert capsys.readouterr().err.count(warning) == 1
    assert run.status["status"] == "finished"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its data base's library
def test_mlflow_keeps_the_history(make_config: Callable[..., Any]):
    pytest.importorskip("mlflow")
    run = run_cut_off(make_config(trackers=["mlflow"]))
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.path.parent.parent / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hf-finetune")
    (kept,) = client.search_runs([experiment.experiment_id])
    points = {
        (name, metric.step): metric.value
        for name in kept.data.metrics
        for metric in client.get_metric_history(kept.info.run_id, name)
    }
    expected = in_history(run)
    assert {place: points[place] for place in expected} == expected
    assert points["test/accuracy", run.metrics["steps"]] == run.metrics["test"]["accuracy"]
    assert kept.data.params["train.learning_rate"] == "0.01"
    assert kept.info.run_name == "small/001"
    assert kept.info.status == "FINISHED"
    files = {file.path for file in client.list_artifacts(kept.info.run_id, "model")}
    assert "model/model.safetensors" in files


@pytest.mark.slow
def test_trackio_keeps_the_history(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("trackio")
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio")
    run = run_cut_off(make_config(trackers=["trackio"], tracking__trackio__examples=0))
    (name,) = storage.SQLiteStorage.get_runs("hf-finetune")
    assert name.startswith("small/001 ")
    logs = storage.SQLiteStorage.get_logs("hf-finetune", name)
    points = {
        (key, log["step"]): value
        for log in logs
        for key, value in log.items()
        if isinstance(value, int | float)
    }
    expected = in_history(run)
    assert {place: points[place] for place in expected} == expected
    assert points["test/accuracy", run.metrics["steps"]] == run.metrics["test"]["accuracy"]


@pytest.mark.slow
def test_wandb_without_a_key_writes_into_the_run(
    make_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = finetune(make_config(trackers=["wandb"], tracking__wandb__examples=2), quiet=True).run
    (offline,) = (run.path / "wandb").glob("offline-run-*")
    points = read_wandb(next(offline.glob("*.wandb")))
    expected = in_history(run)
    assert {place: points[place] for place in expected} == expected
    assert points["test/accuracy", run.metrics["steps"]] == run.metrics["test"]["accuracy"]
    assert run.status["run_id"] in offline.name
    with pytest.raises(UserError, match=r"tracking.wandb.mode: online needs a key"):
        finetune(make_config(trackers=["wandb"], tracking__wandb__mode="online"), quiet=True)


def read_wandb(path: Path) -> Points:
    """What wandb's own file of an offline run holds."""
    from wandb.proto import wandb_internal_pb2

    points: Points = {}
    for content in read_log(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        items = {
            item.key or "/".join(item.nested_key): json.loads(item.value_json)
            for item in record.history.item
        }
        points |= {
            (name, items["step"]): float(value)
            for name, value in items.items()
            if isinstance(value, int | float)
        }
    return points


def read_log(content: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KiB, pieces with 7 bytes of head."""
    place, record = 7, b""  # the file's own head
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if left < 7 or kind == 0:
            place += left
            continue
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""
