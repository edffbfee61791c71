"""What arrived at Comet, or lies in an archive, beside what the run directory says.

Place: shared ground of the tests of the Comet tracker.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any

from servers.comet import CometServer, Experiment

from hf_finetune.runs.run_dir import RunDir
from hf_finetune.trackers.jsonl import read_history

KEY = "n0tArealKey0fAnyb0dy12345"
# What is sent unasked: source, packages, output and the machine have paths of their own.
HARMLESS = {
    "isAlive/ver",
    "health/ping",
    "logger/add/run",
    "status-report/update",
    "batch/logger/experiment/metric",
    "batch/logger/experiment/parameter",
    "write/experiment/log-other",
    "tags/add-tags-to-experiment",
    "asset/upload",
    "asset/3d-limits",
    "visualizations/upload",
    "experiment/metadata",
    "experiment/model",
    "registry-model",
    "write/registry-model",
    "notification/experiment",
}


class Crash:
    """Ends a run after a step, as an error or as Ctrl-C."""

    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_step(self, step: int, *_: object) -> None:
        if step == self.step:
            raise self.error

    def on_record(self, _: object) -> None:
        pass


def only(server: CometServer) -> Experiment:
    (experiment,) = server.experiments.values()
    return experiment


def logged(metrics: list[tuple[str, float, int | None, float | None]]) -> list[Any]:
    """What came of the history, in a fixed order; without what is measured beside it."""
    kept = ("train/", "validation/", "is_best", "seconds")
    return sorted(metric for metric in metrics if metric[0].startswith(kept))


def in_history(run: RunDir) -> list[Any]:
    return sorted(
        (name, value, record["step"], record["epoch"])
        for record in read_history(run.path)
        for name, value in record.items()
        if name not in ("step", "epoch")
    )


def read_archive(run: RunDir) -> list[dict[str, Any]]:
    """Messages of the run's only archive."""
    (archive,) = (run.path / "comet").glob("*.zip")
    with zipfile.ZipFile(archive) as content:
        lines = content.read("messages.json").decode().splitlines()
    return [json.loads(line) for line in lines]


def archived_metrics(run: RunDir) -> list[Any]:
    payloads = [m["payload"] for m in read_archive(run) if m["type"] == "metric_msg"]
    metrics = [payload["metric"] for payload in payloads]
    return [(m["metricName"], m["metricValue"], m["step"], m["epoch"]) for m in metrics]


def archived_others(run: RunDir) -> dict[str, Any]:
    payloads = [m["payload"] for m in read_archive(run) if m["type"] == "log_other"]
    return {payload["key"]: payload["value"] for payload in payloads}
