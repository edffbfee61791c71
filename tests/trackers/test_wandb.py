"""Weights & Biases without a server, read back from wandb's own files."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from servers.loopback import running
from tracked_runs import (
    ODD_NAMES,
    assert_holds_history,
    needs,
    read_points,
    run_cut_off,
    run_with_odd_names,
    track_again,
)

from hf_finetune.errors import UserError
from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers import TrackedRun, wandb
from hf_finetune.trackers.options import TrackingOptions

needs("wandb")
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _without_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*wandb._SETTINGS, "WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))


def read_offline(run: RunDir) -> list[Any]:
    """The records in wandb's own file of the run's one offline folder."""
    from wandb.proto import wandb_internal_pb2

    (folder,) = (run.path / "wandb").glob("offline-run-*")
    assert run.status["run_id"] in folder.name
    (path,) = folder.glob("*.wandb")
    return [
        wandb_internal_pb2.Record.FromString(content) for content in read_log(path.read_bytes())
    ]


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


def read_rows(records: list[Any]) -> list[dict[str, Any]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
        for items in (record.history.item for record in records)
        if items
    ]


def test_without_a_key_a_resumed_run_lies_whole_in_one_folder(make_config: Callable[..., Any]):
    run = run_cut_off(make_config(trackers=["wandb"], tracking__wandb__examples=2))
    records = read_offline(run)
    rows = read_rows(records)
    points = read_points(rows)
    assert_holds_history(points, run)
    score = run.metrics["test"]["accuracy"]
    assert points.count((("test/accuracy", run.metrics["steps"]), score)) == 1
    assert [row["_step"] for row in rows] == list(range(len(rows)))
    (shown,) = [row for row in rows if "training/_type" in row]
    assert (shown["training/_type"], shown["training/count"]) == ("images/separated", 2)
    assert run.status.get("warnings", []) == []
    assert run.status["tracked_at"]["wandb"].startswith(f"wandb sync {run.path}/wandb/offline-run-")
    with pytest.raises(UserError, match=r"tracking.wandb.mode: online needs a key"):
        finetune(make_config(trackers=["wandb"], tracking__wandb__mode="online"), quiet=True)


def test_an_offline_run_holds_pictures_matrix_model_and_settings(
    make_config: Callable[..., Any], tmp_path: Path
):
    settings = {"trackers": ["wandb"], "run__pictures": True}
    run = run_with_odd_names(make_config, tmp_path / "images", **settings)
    assert run.status.get("warnings", []) == []
    records = read_offline(run)
    last = read_rows(records)[-1]
    for name in ODD_NAMES:
        recall = run.metrics["test"]["per_class"][name]["recall"]
        assert last[f"test/per_class/{name}/recall"] == recall
    assert last["confusion_matrix/_type"] == "image-file"
    assert last["test/confusion_matrix_table/_type"] == "table-file"
    artifacts = [record.artifact for record in records if record.HasField("artifact")]
    models = [artifact for artifact in artifacts if artifact.type == "model"]
    files = {entry.path for entry in models[0].manifest.contents}
    assert "model.safetensors" in files
    config = {
        "/".join([item.key, *item.nested_key]): json.loads(item.value_json)
        for record in records
        for item in (*record.run.config.update, *record.config.update)
    }
    assert config["train.learning_rate"] == 0.01
    assert config["split_hash"] == run.status["split"]["sha256"]
    (end,) = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert end == 0


def test_clips_can_be_heard(make_config: Callable[..., Any]):
    run = finetune(make_config(train__max_steps=1), quiet=True).run
    warnings: list[str] = []
    wandb.start(track_again(run, TrackingOptions(), warnings)).finish("finished")
    (row,) = [row for row in read_rows(read_offline(run)) if "training/_type" in row]
    (folder,) = (run.path / "wandb").glob("offline-run-*/files/media/audio")
    (path,) = folder.rglob("*.wav")
    assert (row["training/_type"], warnings) == ("audio", [])
    assert path.read_bytes()[:4] == b"RIFF"


def test_without_a_network_an_online_run_is_recorded_offline(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.socket() as taken:  # nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", address)
        started = time.monotonic()
        run = finetune(
            make_config(trackers=["wandb"], tracking__wandb__mode="online"), quiet=True
        ).run
    assert time.monotonic() - started < 60
    (warning,) = run.status["warnings"]
    assert f"tracking.wandb: {address} doesn't answer (ConnectionError)" in warning
    assert "recorded offline. Send it later with: wandb sync " in warning
    assert_holds_history(read_points(read_rows(read_offline(run))), run)
    assert "0" * 40 not in (run.path / "run.json").read_text()


class Refusing(BaseHTTPRequestHandler):
    """Takes no key."""

    def do_GET(self) -> None:
        self._refuse()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._refuse()

    def _refuse(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None: ...


def test_a_run_that_is_refused_is_recorded_offline(
    make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "10")
    with running(ThreadingHTTPServer(("127.0.0.1", 0), Refusing)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        run = finetune(make_config(trackers=["wandb"], train__max_steps=2), quiet=True).run
    (warning,) = run.status["warnings"]
    assert warning.startswith("tracking.wandb: W&B refused the run (")
    assert "Send it later with: wandb sync " in warning
    assert_holds_history(read_points(read_rows(read_offline(run))), run)


class Online:
    """As much of an online run of wandb as the tracker uses; a real one needs an account."""

    offline = disabled = False
    url = "https://wandb.ai/me/hf-finetune/runs/x"

    def __init__(self, starting_step: int) -> None:
        self.starting_step, self.rows = starting_step, list[tuple[int, dict[str, Any]]]()

    def define_metric(self, *_: object, **__: object) -> None: ...

    def log(self, words: dict[str, Any], step: int, commit: bool) -> None:
        self.rows.append((step, words))


def test_online_a_resumed_run_goes_on_after_what_wandb_has(tmp_path: Path):
    lines = [json.dumps({"step": n, "epoch": 1.0, "train/loss": n / 10}) for n in (1, 2, 3)]
    (tmp_path / "history.jsonl").write_text("\n".join(lines) + "\n")
    for num_rows, first in ((0, 1), (3, 3), (6, 6)):  # row 0 shows examples, row 1 is a record
        client = Online(num_rows)
        tracker = wandb.WandbTracker(TrackedRun(tmp_path, TrackingOptions(), 3), client).begin()
        for number in (4, 5, 6):
            tracker.on_record({"step": number, "epoch": 2.0, "train/loss": number / 10})
        assert [(row, words["step"]) for row, words in client.rows] == [
            (number, number) for number in range(first, 7)
        ]
        assert tracker.where() == client.url
