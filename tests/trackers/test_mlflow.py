"""MLflow, read back with its own client from stores and from a server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tracked_runs import ODD_NAMES, assert_holds_history, needs, run_cut_off, run_with_odd_names

from hf_finetune.finetuning import finetune
from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers import mlflow
from hf_finetune.trackers.mlflow import clean_names

CLEANED = {
    "validation/macro_f1": "validation/macro_f1",
    "per_class/don't know/recall": "per_class/don_t know/recall",
    "per_class/Übung/recall": "per_class/Übung/recall",
    "a,b: c": "a_b_ c",
    "plugin/./my_data.py": "plugin/my_data.py",
    "plugin/../my_data.py": "plugin/__/my_data.py",
    "plugin//home/x.py": "plugin/home/x.py",
    ".": "_",
    "é" * 300: "é" * 250,
}
METRIC = """
GREATER_IS_BETTER = False
def compute(logits, labels):
    return 0.5
"""


def test_names_are_made_such_as_mlflow_takes():
    assert {name: next(iter(clean_names({name: 1}))) for name in CLEANED} == CLEANED


def test_names_that_become_one_are_told_apart():
    assert clean_names({"+": 1, "-": 2, "*": 3, "_": 4}) == {"_": 1, "-": 2, "__2": 3, "__3": 4}


@pytest.fixture
def client_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow is here, and what the tracker sets for it is put back."""
    needs("mlflow")
    for name in (*mlflow._SETTINGS, "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def mlflow_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """MLflow's own server on this machine."""
    needs("mlflow")
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", folder]
    listen = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with (folder / "log.txt").open("w") as log:
        words = [sys.executable, "-m", "mlflow", "server", *map(str, store), *listen]
        process = subprocess.Popen(
            words, cwd=folder, stdout=log, stderr=log, text=True, start_new_session=True
        )
        try:
            await_answer(f"http://127.0.0.1:{port}/health", folder / "log.txt")
            yield f"http://127.0.0.1:{port}", process
        finally:
            stop(process)


def await_answer(address: str, log: Path) -> None:
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(address, timeout=1)
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        else:
            return


def stop(process: subprocess.Popen[str]) -> None:
    """Ends a server with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, 9)
    process.wait()


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its data base's library


def open_client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def find_run(client: Any) -> Any:
    experiment = client.get_experiment_by_name("hf-finetune")
    kept = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    return kept[0]


def read_points(client: Any, kept: Any) -> list[tuple[tuple[str, int], float]]:
    return [
        ((name, metric.step), metric.value)
        for name in kept.data.metrics
        for metric in client.get_metric_history(kept.info.run_id, name)
    ]


def assert_holds_run(client: Any, run: RunDir) -> None:
    kept = find_run(client)
    points = read_points(client, kept)
    assert_holds_history(points, run)
    score = run.metrics["test"]["accuracy"]
    assert points.count((("test/accuracy", run.metrics["steps"]), score)) == 1
    assert kept.data.params["train.learning_rate"] == "0.01"
    assert (kept.info.run_name, kept.info.status) == ("small/001", "FINISHED")
    assert "error" not in kept.data.tags  # of the part that was cut off
    files = {file.path for file in client.list_artifacts(kept.info.run_id, "model")}
    assert "model/model.safetensors" in files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["data base", "files"])
def test_a_store_holds_a_resumed_run_once(
    kind: str,
    make_config: Callable[..., Any],
    tmp_path: Path,
    client_settings: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow's own leave for the old kind
    settings, uri = {}, f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    if kind == "files":
        uri = (tmp_path / "store").as_uri()
        settings["tracking__mlflow__tracking_uri"] = uri
    run = run_cut_off(make_config(trackers=["mlflow"], **settings))
    assert run.status.get("warnings", []) == []
    assert_holds_run(open_client(uri), run)
    assert run.status["tracked_at"]["mlflow"] == f"mlflow ui --backend-store-uri {uri}"


@pytest.mark.slow
def test_a_server_holds_a_resumed_run_once(
    make_config: Callable[..., Any], client_settings: None, mlflow_server: tuple[str, Any]
):
    uri, _ = mlflow_server
    run = run_cut_off(make_config(trackers=["mlflow"], tracking__mlflow__tracking_uri=uri))
    assert run.status.get("warnings", []) == []
    client = open_client(uri)
    assert_holds_run(client, run)
    page = find_run(client).info
    told = f"{uri}/#/experiments/{page.experiment_id}/runs/{page.run_id}"
    assert run.status["tracked_at"]["mlflow"] == told


@pytest.mark.slow
def test_no_name_costs_the_results(
    make_config: Callable[..., Any],
    tmp_path: Path,
    client_settings: None,
    monkeypatch: pytest.MonkeyPatch,
):
    from mlflow.utils.validation import _validate_metric_name

    for name in CLEANED.values():
        _validate_metric_name(name)
    monkeypatch.chdir(tmp_path)
    Path("always_half.py").write_text(METRIC)
    run = run_with_odd_names(
        make_config,
        tmp_path / "data",
        trackers=["mlflow"],
        tracking__mlflow__tags=["first, best"],
        plugins=["./always_half.py"],
    )
    monkeypatch.delitem(sys.modules, "hf_finetune_plugin_always_half", raising=False)
    assert run.status.get("warnings", []) == []
    client = open_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    kept = find_run(client)
    cleaned = ("don_t know", "cats _ dogs", "cats _ dogs")
    recalls = [run.metrics["test"]["per_class"][name]["recall"] for name in ODD_NAMES]
    ends = ("recall", "recall", "recall_2")
    for name, end, recall in zip(cleaned, ends, recalls, strict=True):
        assert kept.data.metrics[f"test/per_class/{name}/{end}"] == recall
    assert kept.data.tags["first_ best"] == "true"
    assert kept.data.tags["plugin/always_half.py"] == run.status["plugins"]["./always_half.py"]
    assert {file.path for file in client.list_artifacts(kept.info.run_id)} >= {
        "model",
        "metrics.json",
    }


class Obstruct:
    """Puts a file where MLflow would keep the run's files."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def on_step(self, step: int, *_: object) -> None:
        self.place.write_text("a file")

    def on_record(self, _: object) -> None:
        pass


@pytest.mark.slow
def test_files_that_are_not_taken_cost_no_scores(
    make_config: Callable[..., Any], tmp_path: Path, client_settings: None
):
    config = make_config(trackers=["mlflow"], train__max_steps=1)
    listener = Obstruct(tmp_path / "runs" / "mlflow_files")
    run = finetune(config, quiet=True, listeners=(listener,)).run
    files, model = run.status["warnings"]
    assert files.startswith("trackers: mlflow did not take config.yaml, environment.json, ")
    assert model.startswith("trackers: mlflow did not take the model (")
    kept = find_run(open_client(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"))
    assert kept.data.metrics["test/accuracy"] == run.metrics["test"]["accuracy"]
    assert kept.info.status == "FINISHED"


class Kill:
    """Ends the server while the run goes on."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def on_step(self, step: int, *_: object) -> None:
        if step == 3:
            stop(self.process)

    def on_record(self, _: object) -> None:
        pass


@pytest.mark.slow
def test_a_server_that_goes_away_costs_seconds_and_one_warning(
    make_config: Callable[..., Any], client_settings: None, mlflow_server: tuple[str, Any]
):
    uri, process = mlflow_server  # the last test that needs it
    config = make_config(trackers=["mlflow"], tracking__mlflow__tracking_uri=uri)
    started = time.monotonic()
    run = finetune(config, quiet=True, listeners=(Kill(process),)).run
    assert time.monotonic() - started < 60
    (warning,) = run.status["warnings"]
    assert warning.startswith("trackers: mlflow failed and hears no more of this run (")
    assert run.status["status"] == "finished"


@pytest.mark.slow
def test_what_the_user_set_for_retries_stays(
    make_config: Callable[..., Any], client_settings: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # nobody listens
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        config = make_config(
            trackers=["mlflow"], tracking__mlflow__tracking_uri=uri, train__max_steps=1
        )
        run = finetune(config, quiet=True).run
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    (warning,) = run.status["warnings"]
    assert warning.startswith("trackers: mlflow could not start, and hears nothing (")
