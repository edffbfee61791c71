"""TensorBoard, read back with its own package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tracked_runs import (
    ODD_NAMES,
    assert_holds_history,
    needs,
    run_cut_off,
    run_with_odd_names,
    track_again,
)

from hf_finetune.finetuning import finetune
from hf_finetune.trackers.options import TrackingOptions

needs("tensorboard")


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), {"scalars": 0, "images": 0, "audio": 0}).Reload()


def read_points(events: Any) -> list[tuple[tuple[str, int], float]]:
    return [
        ((tag, event.step), event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
    ]


def in_single_precision(number: float) -> float:
    return float(np.float32(number))


def test_a_resumed_run_holds_its_history_once(make_config: Callable[..., Any]):
    config = make_config(trackers=["tensorboard"], tracking__tensorboard__examples=2)
    run = run_cut_off(config)
    events = read_events(run.path / "tensorboard")
    points = read_points(events)
    assert_holds_history(points, run, in_single_precision)
    accuracy = in_single_precision(run.metrics["test"]["accuracy"])
    assert (("test/accuracy", run.metrics["steps"]), accuracy) in points
    assert len([tag for tag in events.Tags()["images"] if tag.startswith("training/")]) == 2


def test_results_are_shown_whatever_the_classes_are_called(
    make_config: Callable[..., Any], tmp_path: Path
):
    settings = {"trackers": ["tensorboard"], "run__pictures": True}
    run = run_with_odd_names(make_config, tmp_path / "data", **settings)
    folder = run.path / "tensorboard"
    assert len(list(folder.iterdir())) == 1  # of several, TensorBoard follows only the last
    events = read_events(folder)
    (shown,) = events.Images("confusion_matrix")
    assert (shown.step, min(shown.width, shown.height) > 100) == (run.metrics["steps"], True)
    tags = events.Tags()["scalars"]
    for name in ODD_NAMES:
        assert f"test/per_class/{name}/recall" in tags
    assert read_settings(events)["train.learning_rate"].number_value == 0.01
    assert read_settings(events)["model.name"].string_value == "cnn"
    (score,) = events.Scalars("hparam/test/accuracy")
    assert score.value == in_single_precision(run.metrics["test"]["accuracy"])


def read_settings(events: Any) -> Any:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return HParamsPluginData.FromString(content).session_start_info.hparams


def test_clips_can_be_heard(make_config: Callable[..., Any], tmp_path: Path):
    from hf_finetune.trackers import tensorboard

    run = finetune(make_config(train__max_steps=2), quiet=True).run
    tracked = track_again(run, TrackingOptions(), [])
    tracker = tensorboard.start(tracked)
    assert tracker.where() == f"tensorboard --logdir {tmp_path / 'runs'}"
    tracker.finish("finished")
    (clip,) = read_events(run.path / "tensorboard").Audio("training/00 yes")
    assert (clip.sample_rate, clip.length_frames) == (8000, 4000)
    assert clip.encoded_audio_string[:4] == b"RIFF"


def test_a_tracker_that_cannot_start_costs_a_warning(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
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
