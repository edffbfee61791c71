"""The run directory: what a run leaves behind, and what everything after training reads.

runs/<name>/<number>/
    run.json            status (running, finished, failed, stopped), run_id, start and end,
                        warnings (limits: those of data and model), skipped examples, SHA-256 of
                        plugins, the split and its leaks;
                        resumed: when and from which step it went on, and what was set otherwise
                        that time; stopped_early: step, epoch and reason, where it was
    split.csv           id, split, and hash of content and label, of every example of the data
    config.yaml         the resolved configuration; itself a configuration
    environment.json    versions, hardware, threads, commit, and what the run was about to do; of a
                        resumed run those of the last session, and in `earlier` of those before
    history.jsonl       one record a line: training, validation, test
    metrics.json        validation and test, scored with the best weights
    padding.json        with sound: whether classes change with what a clip is batched with
    predictions/        validation.parquet, test.parquet: id, label, prediction, logits, groups
    model/              the best weights (safetensors), config and processor
    curves.png, examples.png, confusion_matrix.png
    checkpoints/        while it trains (kept with run.keep_checkpoints: true)
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_finetune.config import RunConfig, dump_config, load_config
from hf_finetune.errors import UserError
from hf_finetune.evaluation import Predictions

STATUS, CONFIG, METRICS, MODEL = "run.json", "config.yaml", "metrics.json", "model"
ENVIRONMENT, PADDING = "environment.json", "padding.json"


def create_run_dir(config: RunConfig) -> RunDir:
    """Makes the next free `<run.directory>/<name>/<number>`; nothing is ever overwritten."""
    parent = Path(config.run.directory) / config.name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max(
            (int(p.name) for p in parent.iterdir() if re.fullmatch(r"[0-9]+", p.name)), default=0
        )
        while True:
            try:
                (parent / f"{number:03d}").mkdir()  # fails where another run was quicker
                break
            except FileExistsError:
                number += 1
        run = RunDir(parent / f"{number:03d}")
        (run.path / CONFIG).write_text(dump_config(config), encoding="utf-8")
        facts = {"started": _now(), "plugins": config.plugin_hashes}
        run.set_status("running", run_id=uuid.uuid4().hex, **facts)
    except OSError as error:
        raise UserError(
            f"run.directory: can't write to {str(parent)!r} ({error.strerror}). "
            "Name another folder with run.directory."
        ) from error
    return run


@dataclass(frozen=True)
class RunDir:
    """One run's directory.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def title(self) -> str:
        """Name and number, for headings: `corrupt_mnist_sample/001`."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def model(self) -> Path:
        """Folder of the best model."""
        return self.path / MODEL

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def status(self) -> dict[str, Any]:
        """What `run.json` says."""
        content: dict[str, Any] = self.read_json(STATUS)
        return content

    @property
    def config(self) -> RunConfig:
        """The run's resolved configuration."""
        return load_config(self.path / CONFIG)

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores of validation and test, with the best weights."""
        content: dict[str, Any] = self.read_json(METRICS)
        return content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the run for this process; a kill lets go of it.

        Raises:
            UserError: Another process is at work on the run, or its folder can't be written to.
        """
        import fcntl

        with ExitStack() as stack:
            try:
                file = stack.enter_context((self.path / ".lock").open("w"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"{self.path}: the run is still going on. Wait for its end, or stop it first."
                ) from error
            except OSError as error:
                raise UserError(
                    f"{self.path}: this folder can't be written to ({error.strerror}). Make it "
                    "writable, or copy it to a folder of your own and name that."
                ) from error
            yield

    def set_status(self, status: str, **facts: Any) -> None:
        """Writes the status, and adds facts to `run.json`."""
        known = self.status if (self.path / STATUS).exists() else {}
        known.pop("error", None)  # what stopped it before no longer holds
        self.write_json(STATUS, {**known, "status": status, **facts})

    def go_on(self, step: int, changed: Mapping[str, Any]) -> None:
        """Notes that the run goes on.

        Args:
            step: Optimiser steps of the checkpoint that it goes on from; 0 without one.
            changed: Settings by dotted key that this time differ from config.yaml.
        """
        session = {"at": _now(), "step": step, "changed": dict(changed)}
        self.set_status("running", resumed=[*self.status.get("resumed", []), session])

    def finish(self, status: str, **facts: Any) -> None:
        """Writes the final status and the end's time."""
        self.set_status(status, ended=_now(), **facts)

    def warn(self, text: str, is_limit: bool = False) -> None:
        """Says what the run survives, and keeps it in `run.json`.

        Args:
            text: What, in a phrase.
            is_limit: It is of the data or the model, so that a model card must tell it; what
                happens to trackers and pushes is nothing to those who use the model.
        """
        print(f"warning: {text}", file=sys.stderr, flush=True)
        self.keep_warnings([text], is_limit)

    def keep_warnings(self, texts: Iterable[str], is_limit: bool) -> None:
        """Keeps warnings beside those that are there, each once; as `warn`, but says nothing."""
        status = self.status
        names = ("warnings", "limits") if is_limit else ("warnings",)
        known = {name: list(dict.fromkeys([*status.get(name, []), *texts])) for name in names}
        self.set_status(status["status"], **known)

    def remove_checkpoints(self, keep: bool) -> None:
        """Removes the checkpoints of a run that needs them no more, unless they are to be kept."""
        if not keep:
            shutil.rmtree(self.checkpoints, ignore_errors=True)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes a file of the run whole or not at all."""
        path = self.path / name
        unfinished = path.with_name(f".{name}.unfinished")
        unfinished.write_text(format_json(content) + "\n", encoding="utf-8")
        unfinished.replace(path)

    def read_json(self, name: str) -> Any:
        """Reads a JSON file of the run.

        Raises:
            UserError: The run has no such file.
        """
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{self.path}: the run has no {name}; it has not come that far.")
        return json.loads(path.read_text(encoding="utf-8"))

    def write_predictions(self, predictions: Predictions) -> None:
        """Writes `predictions/<split>.parquet`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "id": predictions.ids,
            "label": predictions.labels,
            "prediction": predictions.logits.argmax(1),
            "logits": list(predictions.logits),
            **predictions.groups,
        }
        folder = self.path / "predictions"
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"{predictions.split}.parquet")


def find_run(path: str | Path) -> RunDir | None:
    """The run at a path: a run directory, or the newest finished run of a name's folder."""
    folder = Path(path)
    if (folder / STATUS).is_file():
        return RunDir(folder)
    numbered = [
        p for p in folder.glob("*") if re.fullmatch(r"[0-9]+", p.name) and (p / STATUS).is_file()
    ]
    finished = [p for p in numbered if RunDir(p).status["status"] == "finished"]
    return RunDir(max(finished, key=lambda p: int(p.name))) if finished else None


def load_unfinished_run(path: str | Path) -> RunDir:
    """The run to go on with: a run directory, or the newest unfinished run of a name's folder.

    Raises:
        UserError: There is none.
    """
    folder = Path(path)
    if (folder / STATUS).is_file():
        return RunDir(folder)
    runs = [
        RunDir(p)
        for p in folder.glob("*")
        if re.fullmatch(r"[0-9]+", p.name) and (p / STATUS).is_file()
    ]
    unfinished = [run for run in runs if run.status["status"] != "finished"]
    if not unfinished:
        raise UserError(
            f"{path}: there is no unfinished run here. Name a run directory such as "
            "runs/corrupt_mnist_sample/001."
        )
    return max(unfinished, key=lambda run: int(run.path.name))


def load_run(path: str | Path) -> RunDir:
    """The run at a path; see `find_run`.

    Raises:
        UserError: There is none.
    """
    run = find_run(path)
    if run is None:
        raise UserError(
            f"{path}: there is no run here (no {STATUS}), and no finished run below it. "
            "Name a run directory such as runs/corrupt_mnist_sample/001."
        )
    return run


def format_json(content: Mapping[str, Any]) -> str:
    """JSON to be read: a list of numbers on one line, so that a matrix has a line for each row."""
    text = json.dumps(content, indent=1)
    # No text is touched: in JSON it holds no line break, and what is joined holds no text.
    numbers = re.compile(r"\[\n\s*([^][{}\"]+?)\n\s*\]")
    return numbers.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
