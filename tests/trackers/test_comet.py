"""The real comet_ml against a loopback server, and its offline archives."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from comet_records import (
    KEY,
    Crash,
    archived_metrics,
    archived_others,
    in_history,
    logged,
    only,
)
from PIL import Image
from servers.comet import CometServer, Experiment, serve_comet

from hf_finetune.config import dump_config, load_config
from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir, load_unfinished_run
from hf_finetune.trackers.comet_session import settle_mode
from hf_finetune.trackers.comet_upload import upload_run
from hf_finetune.trackers.options import CometOptions

TRAINING = {f"training/{number:02d}" for number in range(4)}
pytestmark = pytest.mark.usefixtures("comet_alone")


def test_everything_of_a_run_arrives(
    tracked: Callable[..., Any], server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COMET_WORKSPACE", "ours")
    settings = {"tags": ["course", "digits"], "register_model": "digits", "examples": 3}
    run = finetune(tracked({"engine": "trainer"}, pictures=True, **settings), quiet=True).run
    experiment = only(server)
    assert server.experiments.keys() == {run.status["run_id"]}
    assert logged(experiment.metrics) == in_history(run)
    _check_scores(experiment, run)
    _check_facts(experiment, run)
    _check_pictures(experiment, run)
    _check_matrix(experiment, run)
    _check_files(experiment, run)
    assert [asked["registryModelName"] for asked in server.registered] == ["digits"]
    assert experiment.tags == ["course", "digits"]
    assert experiment.project == ("hf-finetune", "ours")
    assert run.read_json("comet.json")["workspace"] == "ours"
    assert not experiment.errors
    _check_that_no_key_is_written(run)


def _check_scores(experiment: Experiment, run: RunDir) -> None:
    sent = {name: (value, step) for name, value, step, _ in experiment.metrics}
    test, validation = run.metrics["test"], run.metrics["validation"]
    assert sent["test/accuracy"] == (test["accuracy"], run.metrics["steps"])
    assert sent["test/per_class/3/f1"] == (test["per_class"]["3"]["f1"], run.metrics["steps"])
    best = (validation["macro_f1"], run.metrics["best_step"])
    assert sent["best_validation/macro_f1"] == best
    assert sent["system/process_memory_bytes"][0] > 1e6


def _check_facts(experiment: Experiment, run: RunDir) -> None:
    assert experiment.parameters["train.learning_rate"] == 0.01
    assert experiment.parameters["model.channels"] == "[4, 8]"
    assert experiment.parameters["data.max_train_examples"] == "null"
    others = experiment.others
    assert others["run_id"] == run.status["run_id"]
    assert others["run_name"] == others["Name"] == "small/001"
    assert others["data_fingerprint"] == run.status["data_fingerprint"]
    assert others["split_hash"] == hashlib.sha256((run.path / "split.csv").read_bytes()).hexdigest()
    assert others["run_status"] == "finished"
    assert others["best_step"] == run.metrics["best_step"]
    git = run.read_json("environment.json")["git"] or {}  # none outside a checkout
    assert others.get("git_commit") == git.get("commit")
    # What comet_ml says where it was imported after torch, and its own logging is on.
    assert "sys.already_imported_modules" not in others


def _check_pictures(experiment: Experiment, run: RunDir) -> None:
    images = experiment.named("image")
    assert images["curves"].content == (run.path / "curves.png").read_bytes()
    training = sorted(name for name in images if name.startswith("training/"))
    assert training == ["training/00", "training/01", "training/02"]
    with Image.open(io.BytesIO(images["training/00"].content)) as image:
        assert image.size == (28, 28)


def _check_matrix(experiment: Experiment, run: RunDir) -> None:
    matrix = json.loads(experiment.named("confusion-matrix")["confusion-matrix.json"].content)
    assert matrix["matrix"] == run.metrics["test"]["confusion_matrix"]
    assert matrix["labels"] == [str(digit) for digit in range(10)]
    cells = [cell for row in matrix["sampleMatrix"] or [] for cell in row or [] if cell]
    samples = [sample for cell in cells for sample in cell]
    images = experiment.named("image")
    sent = {asset.about["imageId"]: name for name, asset in images.items()}
    assert samples
    assert {sent[sample["assetId"]] for sample in samples} == {
        f"test/{sample['sample']}" for sample in samples
    }


def _check_files(experiment: Experiment, run: RunDir) -> None:
    model = experiment.named("model-element")["model/model.safetensors"]
    assert model.content == (run.model / "model.safetensors").read_bytes()
    assert model.about["groupingName"] == "digits"
    files = experiment.named("asset")
    assert files["config.yaml"].content == (run.path / "config.yaml").read_bytes()
    assert "predictions/test.parquet" in files
    (text,) = experiment.named("text-sample").values()
    assert "cnn: " in text.content.decode()


def _check_that_no_key_is_written(run: RunDir) -> None:
    written = [path for path in run.path.rglob("*") if path.is_file()]
    assert run.path / "comet.json" in written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def test_a_crashed_run_goes_on_in_the_same_experiment(
    tracked: Callable[..., Any],
    server: CometServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = tracked()
    error = OSError(f"no room in {tmp_path}/runs for hf_{'x' * 30}")
    with pytest.raises(OSError, match="no room"):
        finetune(config, quiet=True, listeners=(Crash(9, error),))
    experiment = only(server)
    told = "OSError: no room in ~/runs for <removed>"
    assert experiment.others["run_status"] == "failed"
    assert experiment.others["error"] == told
    assert experiment.errors == [(told, True)]
    unfinished = load_unfinished_run(Path(config.run.directory) / "small")
    run = finetune(unfinished.config, resume_from=unfinished.path, quiet=True).run
    assert only(server).others["run_status"] == "finished"
    assert [path for path, _ in server.requests].count("/clientlib/logger/get/run") == 1
    # Once each: what the checkpoint had no more of is logged again by nobody.
    assert [m[:4] for m in logged(experiment.metrics) if "second" not in m[0]] == [
        m for m in in_history(run) if "second" not in m[0]
    ]
    assert "test/accuracy" in {name for name, *_ in experiment.metrics}
    shown = {name: n for (kind, name), n in experiment.uploads.items() if kind == "image"}
    assert {name for name in shown if name.startswith("training/")} == TRAINING
    assert set(shown.values()) == {1}
    assert [a.about["kind"] for a in experiment.assets].count("text-sample") == 1


def test_without_a_key_it_is_kept_and_sent_once(
    tracked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run = finetune(tracked({"engine": "loop"}, tags=["later"]), quiet=True).run
    assert run.status["warnings"] == []
    assert logged(archived_metrics(run)) == in_history(run)
    assert archived_others(run)["run_status"] == "finished"
    with pytest.raises(UserError, match=r"Comet's key is missing. Set COMET_API_KEY"):
        upload_run(run.path)
    with serve_comet() as server:
        monkeypatch.setenv("COMET_URL_OVERRIDE", server.address)
        monkeypatch.setenv("COMET_API_KEY", KEY)
        key = run.status["run_id"]
        page = f"http://127.0.0.1:{server.server_address[1]}/me/digits/{key}"
        assert upload_run(run.path) == f"{run.path}: sent to Comet as experiment {key}, {page}"
        assert run.read_json("comet.json")["url"] == page
        experiment = only(server)
        assert logged(experiment.metrics) == in_history(run)
        assert experiment.tags == ["later"]
        assert "model/model.safetensors" in experiment.named("model-element")
        num_requests = len(server.requests)
        assert upload_run(run.path) == f"{run.path}: nothing to send, Comet has it, {page}"
        assert len(server.requests) <= num_requests + 1  # it asked whether Comet is there


@pytest.mark.slow
def test_a_run_stopped_offline_goes_on_in_one_archive(
    tracked: Callable[..., Any], make_config: Callable[..., Any]
):
    config = tracked()
    with pytest.raises(KeyboardInterrupt):
        finetune(config, quiet=True, listeners=(Crash(9, KeyboardInterrupt()),))
    unfinished = load_unfinished_run(Path(config.run.directory) / "small")
    assert archived_others(unfinished)["run_status"] == "stopped"
    run = finetune(unfinished.config, resume_from=unfinished.path, quiet=True).run
    assert logged(archived_metrics(run)) == in_history(run)
    assert archived_others(run)["run_id"] == run.status["run_id"]
    untracked = finetune(make_config(run__pictures=False), quiet=True).run
    weights = [(r.model / "model.safetensors").read_bytes() for r in (run, untracked)]
    assert weights[0] == weights[1]  # tracking changes no bit


@pytest.mark.slow
def test_a_killed_run_is_sent_from_its_directory(
    tracked: Callable[..., Any], server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    run = finetune(tracked(mode="off"), quiet=True).run
    assert not (run.path / "comet.json").exists()
    run.set_status("running")  # as a kill would have left it
    (run.path / "metrics.json").unlink()
    upload_run(run.path)
    assert logged(only(server).metrics) == in_history(run)
    assert only(server).others["run_status"] == "killed"
    assert server.experiments.keys() == {run.status["run_id"]}


def test_a_dead_network_costs_the_run_nothing_but_the_connection(
    tracked: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("COMET_API_KEY", KEY)
    started = time.perf_counter()
    run = finetune(tracked({"max_steps": 2})).run
    assert time.perf_counter() - started < 20
    (warning,) = run.status["warnings"]
    assert "http://127.0.0.1:9/clientlib/ doesn't answer" in warning
    assert f"hf-finetune comet upload {run.path}" in warning
    shown = capsys.readouterr()
    assert warning in shown.err
    place = f"offline in {run.path / 'comet'}. Send it with: hf-finetune comet upload {run.path}"
    start, end = shown.out.split("test accuracy")
    assert f"comet  {place}\n" in start
    assert place in end
    assert run.status["tracked_at"] == {"comet": place}
    assert logged(archived_metrics(run)) == in_history(run)


@pytest.mark.slow  # comet_ml waits before it gives up
def test_a_network_that_goes_away_leaves_an_archive(
    tracked: Callable[..., Any], server: CometServer, monkeypatch: pytest.MonkeyPatch
):
    class Outage(Crash):
        def on_step(self, step: int, *_: object) -> None:
            server.is_down = server.is_down or step == self.step

    run = finetune(tracked(), quiet=True, listeners=(Outage(3, OSError()),)).run
    assert any("the network went away during the run" in w for w in run.status["warnings"])
    server.is_down = False
    upload_run(run.path)
    assert set(logged(only(server).metrics)) == set(in_history(run))
    assert only(server).others["run_status"] == "finished"


@pytest.mark.parametrize(
    ("said", "mode", "settled", "told"),
    [
        ("OFFLINE", "auto", "offline", "taken as tracking.comet.mode: offline"),
        ("DISABLED", "auto", "off", "taken as tracking.comet.mode: off"),
        ("online", "auto", "offline", "taken as tracking.comet.mode: auto"),
        ("offline", "online", "online", "not followed"),
        ("get_or_create", "auto", "offline", None),
        ("s3cret", "auto", "offline", "something that Comet doesn't know"),
    ],
)
def test_an_old_comet_mode_is_explained(
    said: str, mode: Any, settled: str, told: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COMET_MODE", said)
    found, note = settle_mode(CometOptions(mode=mode))
    assert found == settled
    assert (note is None) == (told is None)
    if note is not None and told is not None:
        assert told in note
        assert "s3cret" not in note


def test_the_mode_follows_key_and_start_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert settle_mode(CometOptions()) == ("offline", None)
    (tmp_path / "comet.ini").write_text(f"[comet]\napi_key={KEY}\n")
    monkeypatch.setenv("COMET_API_KEY", KEY)
    assert settle_mode(CometOptions()) == ("online", None)
    monkeypatch.setenv("COMET_START_ONLINE", "0")
    assert settle_mode(CometOptions()) == ("offline", None)


def test_with_the_key_of_comets_file_the_link_is_shown_at_the_start_and_at_the_end(
    tracked: Callable[..., Any],
    server: CometServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    monkeypatch.delenv("COMET_API_KEY")
    monkeypatch.setenv("COMET_CONFIG", str(tmp_path / "comet.config"))
    (tmp_path / "comet.config").write_text(f"[comet]\napi_key = {KEY}\n")
    monkeypatch.setenv("COMET_PROJECT_NAME", "fr0m-the-environment")
    brief = {"max_steps": 2, "engine": "loop"}
    run = finetune(tracked(brief, name="my first", examples=0)).run
    page = f"http://127.0.0.1/me/digits/{run.status['run_id']}"
    start, end = capsys.readouterr().out.split("test accuracy")
    assert f"comet  {page}\n" in start
    assert re.search(rf"^comet +{page}$", end, re.MULTILINE)
    assert run.status["tracked_at"] == {"comet": page}
    assert only(server).others["Name"] == "my first"
    assert only(server).project[0] == "fr0m-the-environment"


def test_online_without_a_key_stops_before_the_data_is_read(make_config: Callable[..., Any]):
    config = make_config(
        trackers=["comet"], tracking__comet__mode="online", data__root="nowhere/to/be/found"
    )
    with pytest.raises(UserError, match=r"tracking.comet.mode: online needs Comet's key"):
        finetune(config, quiet=True)


@pytest.mark.slow
def test_clips_are_sent_as_the_model_hears_them(server: CometServer, tmp_path: Path):
    config = load_config(
        "configs/spoken_digits_sample.yaml",
        [
            "trackers=[comet]",
            "tracking.comet={examples: 2, examples_per_cell: 1}",
            "train.max_steps=1",
            f"run.directory={tmp_path}",
        ],
    )
    finetune(config, quiet=True)
    clips = only(server).named("audio")
    for name in ("training/00.wav", "training/01.wav"):
        samples, rate = soundfile.read(io.BytesIO(clips[name].content))
        assert rate == 8000
        assert len(samples) > 800
        assert 0.01 < abs(samples).max() <= 1
    shown = only(server).named("confusion-matrix")["confusion-matrix.json"].content.decode()
    tested = [asset.about["assetId"] for name, asset in clips.items() if name.startswith("test/")]
    assert tested
    assert all(asset_id in shown for asset_id in tested)


@pytest.mark.slow
def test_two_processes_make_one_experiment(
    tracked: Callable[..., Any], server: CometServer, tmp_path: Path
):
    (tmp_path / "x.yaml").write_text(dump_config(tracked()))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(20000 + os.getpid() % 20000)]
    script = str(Path(__file__).resolve().parents[2] / "scripts/finetune.py")
    subprocess.run([*command, script, "--config", "x.yaml", "--quiet"], cwd=tmp_path, check=True)
    experiment = only(server)
    (run,) = (RunDir(path.parent) for path in tmp_path.rglob("run.json"))
    assert logged(experiment.metrics) == in_history(run)


@pytest.mark.slow
def test_a_run_without_comet_does_not_import_it(make_config: Callable[..., Any], tmp_path: Path):
    (tmp_path / "x.yaml").write_text(
        dump_config(make_config(train__max_steps=1, train__engine="loop"))
    )
    program = (
        "import sys; from hf_finetune import finetune, load_config; "
        f"finetune(load_config({str(tmp_path / 'x.yaml')!r}), quiet=True); "
        "assert not {'comet_ml', 'tensorboard', 'wandb', 'mlflow', 'trackio'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
