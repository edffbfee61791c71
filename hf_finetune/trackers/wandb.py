"""Weights & Biases: online with a key, else offline into the run directory.

Place: the `wandb` tracker (`pip install 'hf_finetune[wandb]'`). Metrics have the names of the
history; `wandb sync` sends an offline run later.
"""

from __future__ import annotations

import netrc
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from hf_finetune.errors import UserError
from hf_finetune.trackers import Example, TrackedRun, require_package
from hf_finetune.trackers.continuation import ContinuedTracker
from hf_finetune.trackers.facts import (
    list_pictures,
    read_answers,
    read_others,
    read_parameters,
    read_results,
    title_of,
)
from hf_finetune.trackers.options import TrackingOptions, WandbOptions
from hf_finetune.trackers.records import Measured

_PROBE_SECONDS = 3.0
# For wandb, which reads them when it starts; what the user has set stays.
_SETTINGS = {
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_INIT_TIMEOUT": "30",
    # Otherwise a network that went away holds the run's end for as long as it is away.
    "WANDB_FINISH_TIMEOUT": "600",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
}


class WandbTracker(ContinuedTracker):
    """Logs one run.

    The samples are wandb's step 0, the first record is step 1, the second step 2, and so on: an
    online run that is resumed says with its first step how many records wandb has. An offline run
    can't say: a resumed one writes all of them once more, and what it wrote before goes.

    Args:
        run: What to log.
        client: The open run of wandb.
    """

    def __init__(self, run: TrackedRun, client: Any) -> None:
        super().__init__(run, max(0, client.starting_step - 1))
        self._client = client
        self._place = _tell_place(client)
        client.define_metric("*", step_metric="step")

    def where(self) -> str | None:
        """The run's page; of an offline run what to type."""
        return self._place

    def log_start(self) -> None:
        """Logs images or clips as the model gets them."""
        if self.run.gallery is None:
            return
        shown = self.run.gallery.training_examples(self.run.options.wandb.examples)
        if shown:
            media = {"training": [_media(example) for example in shown], "step": 0}
            self._client.log(media, step=0, commit=True)

    def log_record(self, measured: Measured) -> None:
        """Logs the record's metrics."""
        words = {**measured.metrics, "step": measured.step, "epoch": measured.epoch}
        self._client.log(words, step=self.num_heard + 1, commit=True)

    def on_results(self) -> None:
        """Logs scores, pictures, confusion matrix and the best model."""
        results = read_results(self.run.directory)
        if results is None:
            return
        shown: dict[str, Any] = {}
        with self.sparing("the pictures"):
            shown |= _load_pictures(self.run.directory)
        with self.sparing("the confusion matrix"):
            shown |= _draw_matrix(self.run.directory, list(results.label_names))
        with self.sparing("the scores"):
            words = {**results.metrics, **shown, "step": results.step}
            self._client.log(words, step=self.num_heard + 1, commit=True)
            self._client.summary.update({**results.others, **results.metrics})
        with self.sparing("the model"):
            self._log_model()

    def finish(self, status: str, error: str | None = None) -> None:
        """Marks how the run ended, and sends or writes what is left."""
        self._client.summary["run_status"] = status
        if error is not None:
            self._client.summary["error"] = error
        self._client.finish(exit_code=0 if status == "finished" else 1)

    def _log_model(self) -> None:
        import wandb

        folder = self.run.directory / "model"
        if folder.is_dir():
            model = wandb.Artifact(f"model-{self._client.id}", type="model")
            model.add_dir(str(folder))
            self._client.log_artifact(model)


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
    """Opens the run, offline where online fails; a resumed run goes on in it."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    earlier = _list_unsent(run.directory)
    client = _open(run)
    tracker = WandbTracker(run, client).begin()
    if client.offline:
        for folder in earlier:
            shutil.rmtree(folder)
    return tracker


def _open(run: TrackedRun) -> Any:
    obstacle = None
    if mode_of(run.options) == "online":
        obstacle = _find_obstacle()
        try:
            if obstacle is None:
                return _init(run, "online")
        except Exception as error:  # its text may hold the key
            obstacle = f"W&B refused the run ({type(error).__name__})"
            _forget_run()
    client = _init(run, _settle_mode(run.options.wandb) if obstacle is None else "offline")
    if obstacle is not None:
        run.warn(
            f"tracking.wandb: {obstacle}; the run is recorded offline. Send it later with: "
            f"{_tell_place(client)}"
        )
    return client


def _forget_run() -> None:
    """Ends wandb's process: it holds the id of a run that could not start as taken."""
    import wandb

    wandb.teardown()


def _init(run: TrackedRun, mode: Any) -> Any:
    import wandb

    options, directory = run.options.wandb, run.directory.resolve()
    others = read_others(run.directory)
    return wandb.init(
        entity=options.entity,
        project=options.project,
        name=title_of(directory),
        id=str(others["run_id"]),
        resume="allow",
        mode=mode,
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


def _find_obstacle() -> str | None:
    """Why W&B can't be reached; None where it answers. Takes a few seconds at most."""
    import requests

    try:
        requests.get(_address(), timeout=_PROBE_SECONDS)
    except requests.RequestException as error:
        return f"{_address()} doesn't answer ({type(error).__name__})"
    return None


def _address() -> str:
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


def _list_unsent(directory: Path) -> list[Path]:
    """Offline runs that this run wrote before it was cut off; `wandb sync` marks what it sent."""
    folders = (directory / "wandb").glob("offline-run-*")
    return [folder for folder in folders if not any(folder.glob("*.synced"))]


def _tell_place(client: Any) -> str | None:
    if client.disabled:
        return None
    if not client.offline:
        return str(client.url)
    folder = Path(client.dir).parent
    near = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    return f"wandb sync {near}"


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
        return netrc.netrc(place).authenticators(urlparse(_address()).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _load_pictures(directory: Path) -> dict[str, Any]:
    import wandb

    pictures = list_pictures(directory).items()
    return {name: wandb.Image(str(path)) for name, path in pictures if path.suffix != ".svg"}


def _draw_matrix(directory: Path, label_names: list[str]) -> dict[str, Any]:
    """Wandb's own table of the test split, drawn in the browser."""
    import wandb

    labels, predictions = read_answers(directory)
    if not labels:
        return {}
    matrix = wandb.plot.confusion_matrix(y_true=labels, preds=predictions, class_names=label_names)
    return {"test/confusion_matrix": matrix}


def _media(example: Example) -> Any:
    import wandb

    if example.sampling_rate_hz is None:
        return wandb.Image(example.content, caption=example.label)
    return wandb.Audio(example.content, sample_rate=example.sampling_rate_hz, caption=example.label)
