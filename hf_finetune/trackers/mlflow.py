"""MLflow: a store in the folder of the runs, or a server.

Place: the `mlflow` tracker (`pip install 'hf_finetune[mlflow]'`). Metrics have the names of the
history. Only the client is used, which has no state outside this tracker.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from hf_finetune.trackers import Record, TrackedRun, Tracker, require_package
from hf_finetune.trackers.facts import (
    list_documents,
    list_pictures,
    read_others,
    read_parameters,
    read_results,
    title_of,
)
from hf_finetune.trackers.options import MlflowOptions, TrackingOptions
from hf_finetune.trackers.records import read_record

_MOST_PARAMETERS = 100  # that MLflow takes at once
_ENDINGS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker(Tracker):
    """Logs one run.

    Args:
        run: What to log.
        client: MLflow's client.
        run_id: Of the run at MLflow.
    """

    def __init__(self, run: TrackedRun, client: Any, run_id: str) -> None:
        from mlflow.entities import Param

        self._run, self._client, self._id = run, client, run_id
        if run.num_records:  # it goes on: its parameters are there
            return
        parameters = [Param(k, str(v)) for k, v in read_parameters(run.directory).items()]
        for first in range(0, len(parameters), _MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[first : first + _MOST_PARAMETERS])

    def on_record(self, record: Record) -> None:
        """Logs the record's metrics, and the epoch that the step belongs to."""
        measured = read_record(record)
        self._log({**measured.metrics, "epoch": measured.epoch}, measured.step)

    def on_results(self) -> None:
        """Logs scores, pictures, documents and the best model."""
        directory = self._run.directory
        results = read_results(directory)
        if results is None:
            return
        self._log(results.metrics, results.step)
        for place in (list_pictures(directory) | list_documents(directory)).values():
            folder = place.relative_to(directory).parent
            into = None if folder == Path() else str(folder)
            self._client.log_artifact(self._id, str(place), into)
        if (directory / "model").is_dir():
            self._client.log_artifacts(self._id, str(directory / "model"), "model")

    def finish(self, status: str, error: str | None = None) -> None:
        """Marks how the run ended."""
        if error is not None:
            self._client.set_tag(self._id, "error", error)
        self._client.set_terminated(self._id, _ENDINGS[status])

    def _log(self, metrics: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=entries)


def check(options: TrackingOptions) -> None:
    """Makes sure that the package is there; see `trackers.check_trackers`."""
    require_package("mlflow", "mlflow")


def start(run: TrackedRun) -> MlflowTracker:
    """Opens the run; a resumed run goes on in it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    options, directory = run.options.mlflow, run.directory.resolve()
    uri = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    store = directory.parent.parent
    client = MlflowClient(uri or f"sqlite:///{store / 'mlflow.db'}")
    experiment = _find_experiment(client, options, None if uri else store / "mlflow_files")
    tags = {name: str(value) for name, value in read_others(run.directory).items()}
    run_id = _find_run(client, experiment, tags["run_id"])
    if run_id is None:
        tags |= dict.fromkeys(options.tags, "true")
        created = client.create_run(experiment, tags=tags, run_name=title_of(directory))
        run_id = created.info.run_id
    else:
        client.update_run(run_id, status="RUNNING")
    return MlflowTracker(run, client, run_id)


def _find_experiment(client: Any, options: MlflowOptions, files: Path | None) -> str:
    known = client.get_experiment_by_name(options.experiment)
    if known is not None:
        experiment_id: str = known.experiment_id
        return experiment_id
    location = None if files is None else files.as_uri()
    created: str = client.create_experiment(options.experiment, artifact_location=location)
    return created


def _find_run(client: Any, experiment: str, run_id: str) -> str | None:
    """MLflow's id of a run that was cut off; None for a new run."""
    found = client.search_runs([experiment], f"tags.run_id = '{run_id}'", max_results=1)
    return str(found[0].info.run_id) if found else None
