"""Comet: one run is one experiment, online or as an offline archive in the run directory.

Place: the `comet` tracker. `comet_session` opens experiments (mode, key, network), `comet_upload`
sends archives later, `facts` reads the run directory.

What is logged, under which name (`compare` reads it back from archives and projects):

Metrics
    of a record of history.jsonl, under its names, with its step and epoch, each once and bit for
    bit: `train/loss`, `train/learning_rate`, `train/grad_norm`, `train/examples_per_second`,
    `validation/<name>`, `is_best` (0 or 1), `seconds`; and beside them `system/cpu_percent`,
    `system/process_memory_bytes`, `system/gpu_memory_bytes`.
    of the best weights, when the run has finished: `test/<name>` and
    `test/per_class/<class>/<name>` at the last step, `best_validation/<name>` at the best.
Parameters
    the resolved configuration by dotted key, `train.learning_rate`; lists and null as JSON text.
Others
    `run_id` (also the experiment's key), `run_name` (`<name>/<number>`), `run_status` (running,
    finished, stopped, failed, killed), `error`, `data_fingerprint`, `split_hash`, `split`, `leaks`,
    `git_commit`, `git_is_dirty`, `hf_finetune`, `python`, `torch`, `transformers`,
    `plugin/<path>`; and when it has finished `best_step`, `steps`, `train_seconds`, `seed`,
    `metric_for_best_model`.
Images and clips
    `training/<number>` as the model gets them, `test/<id>` in the cells of the confusion matrix;
    the run's pictures by their place, `curves`, `examples`, `confusion_matrix`.
Confusion matrix, text, model
    `confusion-matrix.json` of the test split; the plan as text; the best model as `model`, or
    under the name in `register_model`.
Assets
    the run's other files by their place: `config.yaml`, `metrics.json`, `report.html`.

The experiment's key is `run_id` of run.json, so that a run and its experiment are known as one, and
a resumed run goes on in it. comet.json in the run directory says how far it has come:
`experiment_key`, `mode`, `workspace`, `project`, `url`, `num_records` (those that have reached
Comet), `has_start` (whether example images and text have, which are sent once) and `archives` (each
with the time when it was sent, or null). It never holds a key.

In all that is sent the home folder is `~`; of environment.json, what names packages, kernel and
command line is sent with `log_environment` only (`comet_privacy`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from hf_finetune.runs.environment import hide_home, remove_secrets
from hf_finetune.trackers import Example, Gallery, Record, TrackedRun, Tracker
from hf_finetune.trackers.comet_privacy import prepare_file, prepare_values
from hf_finetune.trackers.comet_session import (
    Session,
    check_session,
    open_session,
    settle_mode,
)
from hf_finetune.trackers.facts import (
    RunResults,
    list_documents,
    list_pictures,
    read_answers,
    read_others,
    read_parameters,
    read_results,
    summarise,
)
from hf_finetune.trackers.jsonl import read_history
from hf_finetune.trackers.options import TrackingOptions
from hf_finetune.trackers.records import read_record

_MOST_CELL_EXAMPLES = 200


class CometTracker(Tracker):
    """Logs one run to one experiment.

    Args:
        run: What to log.
        session: The open experiment.
    """

    def __init__(self, run: TrackedRun, session: Session) -> None:
        self._run = run
        self._options = run.options.comet
        self._session = session
        self._experiment = session.experiment
        self._state = session.state
        self._num_heard = 0
        self._num_settled = self._state.num_records
        self._log_start()
        for record in read_history(run.directory)[: run.num_records]:
            self.on_record(record)

    def where(self) -> str:
        """The experiment's page; offline, its folder and how to send it."""
        return self._session.where()

    def on_record(self, record: Record) -> None:
        """Logs the record's metrics, unless Comet has them from before the run was resumed."""
        if self._num_heard < self._state.num_records:
            self._num_heard += 1
            return
        measured = read_record(record)
        for name, value in measured.metrics.items():
            self._experiment.log_metric(name, value, step=measured.step, epoch=measured.epoch)
        self._num_heard += (
            1  # only now: Ctrl-C may come at any line, and twice is better than never
        )
        if "validation/loss" in record:
            self._settle()

    def _settle(self) -> None:
        """Notes what must have arrived by now: an epoch's time ago it was handed over."""
        if self._session.is_online:
            arrived = max(self._num_settled, self._state.num_records)
            self._state.update(num_records=arrived, has_start=True)
            self._num_settled = self._num_heard

    def on_results(self) -> None:
        """Logs scores, confusion matrix, pictures, documents and the best model."""
        results = read_results(self._run.directory)
        if results is None:
            return
        for name, value in results.metrics.items():
            is_test = name.startswith("test/")
            step = results.step if is_test else results.best_step
            epoch = results.epoch if is_test else None
            self._experiment.log_metric(name, value, step=step, epoch=epoch)
        self._experiment.log_others(results.others)
        self._log_matrix(results)
        self._log_files()
        self._log_model()

    def finish(self, status: str, error: str | None = None) -> None:
        """Marks how the run ended, sends what is left, and closes the experiment."""
        self._experiment.log_other("run_status", status)
        told = hide_home(remove_secrets(error or status))
        if error is not None:
            self._experiment.log_other("error", told)
        if status == "failed":
            self._session.mark_crashed(told)
        if status != "finished":
            self._log_files()
        self._session.close(num_records=self._num_heard)

    def _log_start(self) -> None:
        directory, experiment = self._run.directory, self._experiment
        experiment.log_parameters(prepare_values(read_parameters(directory)))
        experiment.log_others(prepare_values({**read_others(directory), "run_status": "running"}))
        if self._state.has_start:  # the run goes on: Comet would show them twice
            return
        experiment.log_text(hide_home(summarise(directory)))
        if self._run.gallery is not None:
            shown = self._run.gallery.training_examples(self._options.examples)
            for number, example in enumerate(shown):
                self._log_example(f"training/{number:02d}", example)

    def _log_example(self, name: str, example: Example) -> str | None:
        """Sends an image or a clip; answers with its id at Comet."""
        from PIL import Image

        about = {"id": example.name, "label": example.label}
        if example.sampling_rate_hz is None:
            picture = Image.fromarray(example.content)  # arrays would be tried as paths first
            sent = self._experiment.log_image(picture, name=name, metadata=about, overwrite=True)
            return None if sent is None else str(sent["imageId"])
        with warnings.catch_warnings():  # comet_ml tries an array as a path first
            warnings.simplefilter("ignore", DeprecationWarning)
            sent = self._experiment.log_audio(
                example.content,
                sample_rate=example.sampling_rate_hz,
                file_name=f"{name}.wav",
                metadata=about,
                overwrite=True,
            )
        return None if sent is None else str(sent["assetId"])

    def _log_matrix(self, results: RunResults) -> None:
        answers: dict[str, Any] = {"matrix": results.matrix}
        labels, predictions = read_answers(self._run.directory)
        if labels and self._run.gallery is not None and self._options.examples_per_cell:
            shown = _CellExamples(self._run.gallery, self._log_example)
            answers = {
                "y_true": labels,
                "y_predicted": predictions,
                "index_to_example_function": shown,
                "max_examples_per_cell": self._options.examples_per_cell,
            }
        self._experiment.log_confusion_matrix(
            **answers,
            labels=list(results.label_names),
            title="Confusion matrix of the test split",
            row_label="True class",
            column_label="Predicted class",
            step=results.step,
        )

    def _log_files(self) -> None:
        for name, picture in list_pictures(self._run.directory).items():
            self._experiment.log_image(str(picture), name=name, overwrite=True)
        for name, document in list_documents(self._run.directory).items():
            prepared = prepare_file(document, self._options.log_environment)
            self._experiment.log_asset(prepared, file_name=name, overwrite=True)

    def _log_model(self) -> None:
        folder, name = self._run.directory / "model", self._options.register_model
        if not folder.is_dir() or not (self._options.log_model or name):
            return
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            prepared = prepare_file(path, self._options.log_environment)
            place = str(path.relative_to(folder.parent))
            self._experiment.log_model(name or "model", prepared, place, overwrite=True)
        if name:
            self._session.register_model(name)


class _CellExamples:
    """Sends the examples that Comet asks for when it fills the cells of a confusion matrix."""

    def __init__(self, gallery: Gallery, log: Callable[[str, Example], str | None]) -> None:
        self._gallery, self._log, self._count = gallery, log, 0

    def __call__(self, index: int) -> Any:
        """What the cell shows for a row of the test split: an image or a clip, or its number."""
        self._count += 1
        if self._count > _MOST_CELL_EXAMPLES:
            return index
        (example,) = self._gallery.test_examples([index])
        sent = self._log(f"test/{example.name}", example)
        return index if sent is None else {"sample": example.name, "assetId": sent}


def check(options: TrackingOptions) -> None:
    """Makes sure that there is a key where the mode needs one; see `trackers.check_trackers`."""
    check_session(options.comet)


def mode_of(options: TrackingOptions) -> str:
    """online, offline or off."""
    return settle_mode(options.comet)[0]


def start(run: TrackedRun) -> CometTracker | None:
    """Opens the run's experiment, a new one or that of the run before it was cut off."""
    session = open_session(run.directory, run.options.comet, run.warn)
    return None if session is None else CometTracker(run, session)
