"""Weights & Biases: online with a key, else offline into the run directory.

Place: the `wandb` tracker (`pip install 'hf_finetune[wandb]'`). Metrics have the names of the
history; `wandb sync` sends an offline run later.
"""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any

from hf_finetune.errors import UserError
from hf_finetune.trackers import Example, Record, TrackedRun, Tracker, require_package
from hf_finetune.trackers.facts import (
    list_pictures,
    read_answers,
    read_others,
    read_parameters,
    read_results,
    title_of,
)
from hf_finetune.trackers.options import TrackingOptions, WandbOptions
from hf_finetune.trackers.records import read_record


class WandbTracker(Tracker):
    """Logs one run.

    Args:
        run: What to log.
        client: The open run of wandb.
    """

    def __init__(self, run: TrackedRun, client: Any) -> None:
        self._run, self._client = run, client
        # A step of its own: wandb's must never go back, as it does when a run is resumed.
        client.define_metric("*", step_metric="step")
        if run.gallery is not None and not run.num_records:
            shown = run.gallery.training_examples(run.options.wandb.examples)
            client.log({"training": [_media(example) for example in shown], "step": 0})

    def on_record(self, record: Record) -> None:
        """Logs the record's metrics."""
        measured = read_record(record)
        self._client.log({**measured.metrics, "step": measured.step, "epoch": measured.epoch})

    def on_results(self) -> None:
        """Logs scores, pictures, confusion matrix and the best model."""
        import wandb

        directory = self._run.directory
        results = read_results(directory)
        if results is None:
            return
        pictures = {n: wandb.Image(str(path)) for n, path in list_pictures(directory).items()}
        labels, predictions = read_answers(directory)
        if labels:
            pictures["test/confusion_matrix"] = wandb.plot.confusion_matrix(
                y_true=labels, preds=predictions, class_names=list(results.label_names)
            )
        self._client.log({**results.metrics, **pictures, "step": results.step})
        self._client.summary.update({**results.others, **results.metrics})
        if (directory / "model").is_dir():
            model = wandb.Artifact(f"model-{self._client.id}", type="model")
            model.add_dir(str(directory / "model"))
            self._client.log_artifact(model)

    def finish(self, status: str, error: str | None = None) -> None:
        """Marks how the run ended, and sends or writes what is left."""
        self._client.summary["run_status"] = status
        self._client.finish(exit_code=0 if status == "finished" else 1)


def check(options: TrackingOptions) -> None:
    """Makes sure that package and key are there; see `trackers.check_trackers`.

    Raises:
        UserError: They aren't.
    """
    require_package("wandb", "wandb")
    if options.wandb.mode == "online" and not _has_key():
        raise UserError(
            "tracking.wandb.mode: online needs a key, and there is none. Set WANDB_API_KEY, or run "
            "'wandb login' once; or write tracking.wandb.mode: offline"
        )


def mode_of(options: TrackingOptions) -> str:
    """online, offline, or what WANDB_MODE says."""
    return str(_settle_mode(options.wandb) or os.environ["WANDB_MODE"])


def start(run: TrackedRun) -> WandbTracker:
    """Opens the run; a resumed run goes on in it."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    options, directory = run.options.wandb, run.directory.resolve()
    others = read_others(run.directory)
    client = wandb.init(
        entity=options.entity,
        project=options.project,
        name=title_of(directory),
        id=str(others["run_id"]),
        resume="allow",
        mode=_settle_mode(options),
        dir=str(directory),
        tags=list(options.tags),
        config={**read_parameters(run.directory), **others},
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
        ),
    )
    return WandbTracker(run, client)


def _settle_mode(options: WandbOptions) -> Any:
    """The mode in wandb's word for it; None leaves it to WANDB_MODE."""
    if options.mode != "auto":
        return options.mode
    if os.environ.get("WANDB_MODE"):
        return None
    return "online" if _has_key() else "offline"


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    place = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(place).authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _media(example: Example) -> Any:
    import wandb

    if example.sampling_rate_hz is None:
        return wandb.Image(example.content, caption=example.label)
    return wandb.Audio(example.content, sample_rate=example.sampling_rate_hz, caption=example.label)
