"""Trackio, read back from its own data base."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from PIL import Image
from tracked_runs import (
    ODD_NAMES,
    assert_holds_history,
    needs,
    read_points,
    run_cut_off,
    run_with_odd_names,
    track_again,
)

from hf_finetune.finetuning import finetune
from hf_finetune.trackers import trackio
from hf_finetune.trackers.options import TrackingOptions

needs("trackio")
pytestmark = pytest.mark.slow


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trackio's data base, in a folder of the test."""
    from trackio import sqlite_storage, utils
    from trackio.media import media

    folder = tmp_path / "trackio"
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sqlite_storage, "TRACKIO_DIR", folder)  # read when they are imported
    monkeypatch.setattr(utils, "MEDIA_DIR", folder / "media")
    monkeypatch.setattr(media, "MEDIA_DIR", folder / "media")
    return sqlite_storage.SQLiteStorage


def read_logs(storage: Any) -> list[dict[str, Any]]:
    (name,) = storage.get_runs("hf-finetune")
    assert name.startswith("small/001 ")
    logs: list[dict[str, Any]] = storage.get_logs("hf-finetune", name)
    return logs


def test_a_resumed_run_holds_its_history_once(make_config: Callable[..., Any], storage: Any):
    run = run_cut_off(make_config(trackers=["trackio"], tracking__trackio__examples=2))
    logs = read_logs(storage)
    points = read_points(logs)
    assert_holds_history(points, run)
    score = run.metrics["test"]["accuracy"]
    assert points.count((("test/accuracy", run.metrics["steps"]), score)) == 1
    assert len([log for log in logs if "training/00" in log]) == 1
    assert run.status.get("warnings", []) == []


def test_images_and_odd_names_arrive(make_config: Callable[..., Any], tmp_path: Path, storage: Any):
    settings = {"trackers": ["trackio"], "tracking__trackio__examples": 2}
    run = run_with_odd_names(make_config, tmp_path / "data", **settings)
    logs = read_logs(storage)
    shown = [log for log in logs if "training/01" in log]
    assert (len(shown), shown[0]["training/01"]["caption"] in ODD_NAMES) == (1, True)
    path = tmp_path / "trackio" / "media" / shown[0]["training/01"]["file_path"]
    with Image.open(path) as image:
        assert image.size == (28, 28)
    (scores,) = [log for log in logs if "test/accuracy" in log]
    for name in ODD_NAMES:
        recall = run.metrics["test"]["per_class"][name]["recall"]
        assert scores[f"test/per_class/{name}/recall"] == recall


def test_clips_can_be_heard_as_loud_as_they_are(
    make_config: Callable[..., Any], tmp_path: Path, storage: Any
):
    run = finetune(make_config(train__max_steps=1), quiet=True).run
    warnings: list[str] = []
    tracker = trackio.start(track_again(run, TrackingOptions(), warnings))
    where = tracker.where()
    tracker.finish("finished")
    (log,) = [log for log in read_logs(storage) if "training/00" in log]
    assert (log["training/00"]["caption"], warnings) == ("yes", [])
    path = tmp_path / "trackio" / "media" / log["training/00"]["file_path"]
    clip, rate = soundfile.read(path)
    assert (len(clip), rate) == (4000, 8000)
    assert abs(clip).max() == pytest.approx(0.25, abs=1e-3)
    assert where is not None
    assert shlex.split(where) == ["trackio", "show", "--project", "hf-finetune"]
