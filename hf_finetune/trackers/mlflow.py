"""MLflow: a store in the folder of the runs, or a server.

Place: the `mlflow` tracker (`pip install 'hf_finetune[mlflow]'`). Metrics have the names of the
history, but for characters that MLflow doesn't take in a name, which become `_`. Only the client is
used, which has no state outside this tracker.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hf_finetune.trackers import TrackedRun, require_package
from hf_finetune.trackers.continuation import ContinuedTracker
from hf_finetune.trackers.facts import (
    list_documents,
    list_pictures,
    read_others,
    read_parameters,
    read_results,
    title_of,
)
from hf_finetune.trackers.options import MlflowOptions, TrackingOptions
from hf_finetune.trackers.records import Measured

Value = TypeVar("Value")

# For mlflow, which reads them when it needs them; what the user has set stays.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Otherwise a server that can't be reached holds the run for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000  # that MLflow takes at once
_MOST_CHARACTERS = 250  # of a name
_NOT_IN_NAMES = re.compile(r"[^\w./ -]")
_ENDINGS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MlflowTracker(ContinuedTracker):
    """Logs one run.

    Args:
        run: What to log.
        client: MLflow's client.
        run_id: Of the run at MLflow.
        place: What `where` says.
    """

    def __init__(self, run: TrackedRun, client: Any, run_id: str, place: str) -> None:
        # The epoch is in every record and in nothing else.
        super().__init__(run, len(client.get_metric_history(run_id, "epoch")))
        self._client, self._id, self._place = client, run_id, place

    def where(self) -> str | None:
        """The run's page at a server; of a store what to type."""
        return self._place

    def log_start(self) -> None:
        """Logs the settings."""
        from mlflow.entities import Param

        parameters = clean_names(read_parameters(self.run.directory))
        self._log(params=[Param(name, str(value)) for name, value in parameters.items()])

    def log_record(self, measured: Measured) -> None:
        """Logs the record's metrics, and the epoch that the step belongs to."""
        self._log_metrics({**measured.metrics, "epoch": measured.epoch}, measured.step)

    def on_results(self) -> None:
        """Logs scores, pictures, documents and the best model."""
        directory = self.run.directory
        results = read_results(directory)
        if results is None:
            return
        with self.sparing("the scores"):
            self._log_metrics(results.metrics, results.step)
        self._log_files()
        if (directory / "model").is_dir():
            with self.sparing("the model"):
                self._client.log_artifacts(self._id, str(directory / "model"), "model")

    def finish(self, status: str, error: str | None = None) -> None:
        """Marks how the run ended."""
        if error is not None:
            self._client.set_tag(self._id, "error", error)
        self._client.set_terminated(self._id, _ENDINGS[status])

    def is_gone(self, error: Exception) -> bool:
        """Whether the server doesn't answer: MLflow has no class of errors for it."""
        from mlflow.exceptions import MlflowException, RestException

        is_answer = isinstance(error, RestException)
        return isinstance(error, MlflowException) and not is_answer and _has_no_code(error)

    def _log_files(self) -> None:
        """Logs pictures and documents, and says of all that aren't taken at once."""
        directory = self.run.directory
        refused: dict[str, Exception] = {}
        for name, path in (list_pictures(directory) | list_documents(directory)).items():
            folder = path.relative_to(directory).parent
            try:
                into = None if folder == Path() else str(folder)
                self._client.log_artifact(self._id, str(path), into)
            except Exception as error:
                if self.is_gone(error):
                    raise
                refused[name] = error
        if refused:
            with self.sparing(", ".join(refused)):
                raise next(iter(refused.values()))

    def _log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        named = clean_names(metrics).items()
        self._log(metrics=[Metric(name, float(value), now, step) for name, value in named])

    def _log(self, metrics: Iterable[Any] = (), params: Iterable[Any] = ()) -> None:
        for part in _parts(list(metrics), _MOST_METRICS):
            self._client.log_batch(self._id, metrics=part)
        for part in _parts(list(params), _MOST_PARAMETERS):
            self._client.log_batch(self._id, params=part)


def check(options: TrackingOptions) -> None:
    """Makes sure that the package is there; see `trackers.check_trackers`."""
    require_package("mlflow", "mlflow")


def start(run: TrackedRun) -> MlflowTracker:
    """Opens the run; a resumed run goes on in it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    options, directory = run.options.mlflow, run.directory.resolve()
    given = options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    store = directory.parent.parent
    uri = given or f"sqlite:///{store / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = _find_experiment(client, options, None if given else store / "mlflow_files")
    run_id = _open_run(client, experiment, run)
    return MlflowTracker(run, client, run_id, _tell_place(uri, experiment, run_id)).begin()


def clean_names(values: Mapping[str, Value]) -> dict[str, Value]:
    """The values under names that MLflow takes; two that become one name are told apart."""
    cleaned: dict[str, Value] = {}
    for name, value in values.items():
        plain = unique = _clean_name(name)
        number = 2
        while unique in cleaned:
            unique, number = f"{plain}_{number}", number + 1
        cleaned[unique] = value
    return cleaned


def _clean_name(name: str) -> str:
    """A name of letters, digits and `_./- ` that is also a path without `.` and `..`."""
    parts = (part.strip() for part in _NOT_IN_NAMES.sub("_", name).split("/"))
    kept = ["__" if part == ".." else part for part in parts if part not in ("", ".")]
    return "/".join(kept)[:_MOST_CHARACTERS].rstrip("/") or "_"


def _parts(entries: list[Any], most: int) -> Iterable[list[Any]]:
    return (entries[first : first + most] for first in range(0, len(entries), most))


def _has_no_code(error: Any) -> bool:
    return bool(error.error_code == "INTERNAL_ERROR")


def _find_experiment(client: Any, options: MlflowOptions, files: Path | None) -> str:
    known = client.get_experiment_by_name(options.experiment)
    if known is not None:
        experiment_id: str = known.experiment_id
        return experiment_id
    location = None if files is None else files.as_uri()
    created: str = client.create_experiment(options.experiment, artifact_location=location)
    return created


def _open_run(client: Any, experiment: str, run: TrackedRun) -> str:
    """MLflow's id of the run: that of a run that was cut off, or a new one."""
    others = read_others(run.directory)
    known = client.search_runs([experiment], f"tags.run_id = '{others['run_id']}'", max_results=1)
    if known:
        run_id = str(known[0].info.run_id)
        if "error" in known[0].data.tags:
            client.delete_tag(run_id, "error")
        client.update_run(run_id, status="RUNNING")
        return run_id
    tags = {name: str(value) for name, value in others.items()}
    tags = clean_names(tags | dict.fromkeys(run.options.mlflow.tags, "true"))
    created = client.create_run(experiment, tags=tags, run_name=title_of(run.directory.resolve()))
    return str(created.info.run_id)


def _tell_place(uri: str, experiment: str, run_id: str) -> str:
    if uri.startswith(("http://", "https://")):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"
    return f"mlflow ui --backend-store-uri {uri.replace(f'{Path.cwd()}/', '')}"
