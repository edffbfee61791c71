"""The real comet_ml writes experiments, online and offline; the comparison reads both back."""

from __future__ import annotations

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs.comparable_runs import Scored, write_run
from servers.comet import serve_comet
from servers.comet_api import CometApiServer, serve_comet_api

from hf_finetune import finetune, load_config
from hf_finetune.cli import main
from hf_finetune.errors import UserError
from hf_finetune.runs.comparison import compare_runs
from hf_finetune.runs.comparison.comet_archives import read_archive
from hf_finetune.runs.comparison.record import RunRecord
from hf_finetune.runs.comparison.run_directories import read_run
from hf_finetune.runs.run_dir import RunDir

KEY = "n0tArealKey0fAnyb0dy12345"
PROJECT = "comet:me/digits"


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("COMET"):
                patch.delenv(name)
        patch.setenv("COMET_CONFIG", "/nowhere/at/all")
        patch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")  # nobody listens
        yield patch


@pytest.fixture(scope="module")
def tracked(
    tmp_path_factory: pytest.TempPathFactory, patch: pytest.MonkeyPatch
) -> tuple[RunDir, RunDir, dict[str, Any]]:
    """A run logged online, one logged offline, and what the server has of the first."""
    folder = tmp_path_factory.mktemp("tracked")

    def train(seed: int, mode: str) -> RunDir:
        settings = [
            f"run.directory={folder}",
            f"seed={seed}",
            "data.max_train_examples=40",
            "train.num_train_epochs=2",
            "train.logging_steps=1",
            "train.engine=loop",
            "model.channels=[2]",
            "model.convolutions_per_block=1",
            "compute.precision=fp32",
            "run.pictures=false",
            "trackers=[comet]",
            f"tracking.comet.mode={mode}",
            f"tracking.comet.tags=[course, {mode}]",
            "tracking.comet.log_model=false",
            "tracking.comet.examples=0",
            "tracking.comet.examples_per_cell=0",
        ]
        config = Path(__file__).parents[2] / "configs/corrupt_mnist_sample.yaml"
        return finetune(load_config(config, settings), quiet=True).run

    with serve_comet() as server:
        patch.setenv("COMET_URL_OVERRIDE", server.address)
        patch.setenv("COMET_API_KEY", KEY)
        online = train(0, "online")
    patch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")
    return online, train(1, "offline"), server.experiments


@pytest.fixture
def api(
    tracked: tuple[RunDir, RunDir, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[CometApiServer]:
    """A Comet that shows what was logged, to the key in the environment."""
    with serve_comet_api(dict(tracked[2])) as server:
        server.keys.add(KEY)
        monkeypatch.setenv("COMET_URL_OVERRIDE", server.address)
        monkeypatch.setenv("COMET_API_KEY", KEY)
        yield server


@pytest.fixture
def archive(tracked: tuple[RunDir, RunDir, dict[str, Any]]) -> Path:
    (path,) = (tracked[1].path / "comet").glob("*.zip")
    return path


def no_warning(text: str) -> None:
    raise AssertionError(text)


def assert_same(found: RunRecord, directory: RunDir, scores: set[str]) -> None:
    """What was read of an experiment is what the run directory says."""
    known = read_run(directory.path, no_warning)
    assert found.keys == known.keys
    assert found.status == "finished"
    assert found.title == known.title
    assert found.tags == known.tags
    assert found.settings == known.settings
    assert found.fingerprint == known.fingerprint != ""
    assert scores <= found.scores.keys()
    assert {name: known.scores[name] for name in found.scores} == dict(found.scores)
    own = ("step", "train/", "validation/")
    assert [{k: v for k, v in r.items() if k.startswith(own)} for r in known.history] == [
        {k: v for k, v in r.items() if k.startswith(own)} for r in found.history
    ]
    assert any("validation/accuracy" in record for record in found.history)


SCORES = {f"{s}/{m}" for s in ("validation", "test") for m in ("accuracy", "macro_f1", "loss")}


def test_an_archive_tells_what_its_run_directory_tells(
    tracked: tuple[RunDir, RunDir, dict[str, Any]], archive: Path
):
    found = read_archive(archive, no_warning)
    assert found is not None
    assert_same(found, tracked[1], SCORES)
    assert found.split_hashes == read_run(tracked[1].path, no_warning).split_hashes != {}


def test_a_project_tells_what_its_run_directory_tells(
    tracked: tuple[RunDir, RunDir, dict[str, Any]], api: CometApiServer
):
    (row,) = compare_runs([PROJECT]).rows
    assert_same(row.runs[0], tracked[0], SCORES)
    key = next(iter(api.experiments))
    assert row.runs[0].sources == (f"{PROJECT}/{key}",)
    (alone,) = compare_runs([f"{PROJECT}/{key}"]).rows
    assert alone == row


def test_a_run_counts_once_wherever_it_is_read(
    tracked: tuple[RunDir, RunDir, dict[str, Any]],
    api: CometApiServer,
    archive: Path,
    tmp_path: Path,
):
    online, offline, _ = tracked
    shutil.copy(archive, tmp_path)
    words = [PROJECT, str(tmp_path), str(online.path), str(offline.path)]
    comparison = compare_runs(words)
    (row,) = comparison.rows
    assert row.seeds == "0-1"
    assert [len(run.sources) for run in row.runs] == [2, 2]
    assert all(
        run.sources[0] == str(known.path) for run, known in zip(row.runs, tracked[:2], strict=True)
    )
    assert comparison.data == ("A",)  # the project knows the fingerprint, the directory the split
    # Without the directories the archive knows the split, and the project is known to share it.
    assert [row.seeds for row in compare_runs(words[:2]).rows] == ["0-1"]


def test_an_archive_in_a_run_directory_is_no_second_run(
    tracked: tuple[RunDir, RunDir, dict[str, Any]],
):
    comparison = compare_runs([str(tracked[0].path.parent)])
    runs = [run for row in comparison.rows for run in row.runs]
    assert {run.sources for run in runs} == {(str(tracked[0].path),), (str(tracked[1].path),)}


def test_tags_given_at_comet_count(
    tracked: tuple[RunDir, RunDir, dict[str, Any]], api: CometApiServer
):
    (experiment,) = api.experiments.values()
    experiment.tags.append("best")
    try:
        words = [PROJECT, str(tracked[0].path.parent)]
        (row,) = compare_runs(words, tags=["best", "course"]).rows
        assert [run.seed for run in row.runs] == [0]
    finally:
        experiment.tags.remove("best")


def test_runs_that_comet_saw_end_badly_are_shown_so(api: CometApiServer):
    (key,) = api.experiments
    experiment = api.experiments[key]
    others = dict(experiment.others)
    try:
        experiment.others["run_status"] = "running"
        api.running.add(key)
        assert compare_runs([PROJECT]).rows[0].runs[0].status == "running"
        api.running.clear()
        assert compare_runs([PROJECT]).rows[0].runs[0].status == "killed"
        experiment.errors.append(("out of memory", True))
        assert compare_runs([PROJECT]).rows[0].runs[0].status == "failed"
    finally:
        experiment.others = others
        experiment.errors.clear()


def test_an_experiment_that_can_not_be_read_costs_no_other(api: CometApiServer, tmp_path: Path):
    run = write_run(tmp_path, Scored([0.5], 0.5))
    api.broken.update(api.experiments)
    comparison = compare_runs([PROJECT, str(run.path)])
    assert len(comparison.rows) == 1
    (warning,) = comparison.warnings
    assert "can't be read" in warning
    assert KEY not in warning


def test_faults_on_the_way_to_comet_are_told(
    api: CometApiServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for word in ("comet:digits", "comet:me/digits/a/b", "comet:me/"):
        with pytest.raises(UserError, match="must be comet:workspace/project"):
            compare_runs([word])
    with pytest.raises(UserError, match="no such workspace or project"):
        compare_runs(["comet:me/nothing"])
    monkeypatch.setenv("COMET_API_KEY", "another0fNobodys123456789")
    assert main(["compare", PROJECT]) == 2
    error = capsys.readouterr().err
    assert "the key is refused" in error
    assert "another0f" not in error
    monkeypatch.delenv("COMET_API_KEY")
    with pytest.raises(UserError, match="key is missing"):
        compare_runs([PROJECT])


def test_a_dead_network_costs_seconds(monkeypatch: pytest.MonkeyPatch, patch: pytest.MonkeyPatch):
    monkeypatch.setenv("COMET_API_KEY", KEY)
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:9/clientlib/")
    start = time.monotonic()
    with pytest.raises(UserError, match="doesn't answer"):
        compare_runs([PROJECT])
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("fault", ["cut", "no messages", "text", "broken line"])
def test_a_damaged_archive_costs_a_warning_and_no_other_run(
    fault: str, archive: Path, tmp_path: Path
):
    run = write_run(tmp_path / "runs", Scored([0.5], 0.5))
    hurt = tmp_path / "hurt.zip"
    with zipfile.ZipFile(archive) as whole, zipfile.ZipFile(hurt, "w") as copy:
        for name in ("experiment.json", "messages.json"):
            content = whole.read(name)
            if name == "messages.json" and fault == "broken line":
                content += b'\n{"payload": {"metr'
            if name == "experiment.json" or fault != "no messages":
                copy.writestr(name, content)
    if fault == "cut":
        hurt.write_bytes(archive.read_bytes()[:2000])
    if fault == "text":
        hurt.write_text("no archive")
    comparison = compare_runs([str(hurt), str(run.path)])
    assert any(str(hurt) in warning and "damaged" in warning for warning in comparison.warnings)
    assert len(comparison.rows) == (2 if fault == "broken line" else 1)


def test_an_experiment_of_other_make_is_shown_with_a_warning(
    tmp_path: Path, patch: pytest.MonkeyPatch
):
    import json

    messages = [
        {"type": "log_other", "payload": {"key": "Name", "value": "by hand"}},
        {
            "type": "metric_msg",
            "payload": {"metric": {"metricName": "val_acc", "metricValue": 0.5, "step": 1}},
        },
        {
            "type": "parameter_msg",
            "payload": {"param": {"paramName": "lr", "paramValue": "NaN", "step": None}},
        },
    ]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("experiment.json", json.dumps({"offline_id": "k", "start_time": 0}))
        made.writestr("messages.json", "\n".join(map(json.dumps, messages)))
    comparison = compare_runs([str(tmp_path)])
    assert [row.label for row in comparison.rows] == ["by hand"]
    assert any("no metric validation/…, only val_acc" in text for text in comparison.warnings)
    assert any("parameters are no configuration" in text for text in comparison.warnings)
