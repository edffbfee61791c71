"""Reads Comet's offline archives for a comparison, without comet_ml.

Place: one of the readers behind `sources`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_finetune.runs.comparison.experiments import Experiment, make_record
from hf_finetune.runs.comparison.record import ARCHIVE, RunRecord, hash_splits

_ABOUT, _MESSAGES = "experiment.json", "messages.json"
_SPLIT = "split.csv"
# What comet_ml adds of its own accord.
OWN_PARAMETERS = {"curr_step", "curr_epoch"}


def is_archive(path: Path) -> bool:
    """Whether a file is a Comet archive; of a damaged zip, its name must do."""
    if path.suffix != ".zip":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {_ABOUT, _MESSAGES} <= {*archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return True


def read_archive(path: Path, warn: Callable[[str], None]) -> RunRecord | None:
    """Reads an archive.

    Args:
        path: The zip file.
        warn: Told of damage.

    Returns:
        The run; None where the archive can't be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return make_record(_read(archive, path, warn), warn)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        warn(f"{path}: damaged, or no archive of Comet's ({error}); it is left out.")
        return None


def _read(archive: zipfile.ZipFile, path: Path, warn: Callable[[str], None]) -> Experiment:
    about = json.loads(archive.read(_ABOUT))
    experiment = Experiment(
        key=str(about.get("offline_id", "")),
        name=path.stem,
        source=str(path),
        origin=ARCHIVE,
        state="crashed" if about.get("customer_error_reported") else "finished",
        started_ms=about.get("start_time"),
        tags=list(about.get("tags") or ()),
    )
    faults, files = 0, dict[str, str]()
    for line in archive.read(_MESSAGES).decode("utf-8").splitlines():
        try:
            message = json.loads(line)
            _take(experiment, files, message["type"], message["payload"])
        except (ValueError, KeyError, TypeError, AttributeError):
            faults += 1
    if faults:
        warn(f"{path}: {faults} of its messages are damaged; the others are shown.")
    if files.get(_SPLIT) in archive.namelist():
        lines = archive.read(files[_SPLIT]).decode("utf-8").splitlines()
        experiment.split_hashes = hash_splits(lines)
    return experiment


def _take(
    experiment: Experiment, files: dict[str, str], kind: str, payload: dict[str, Any]
) -> None:
    if kind == "metric_msg":
        metric = payload["metric"]
        experiment.metrics.append((metric["metricName"], metric["metricValue"], metric["step"]))
    elif kind == "parameter_msg":
        name = payload["param"]["paramName"]
        if name not in OWN_PARAMETERS:
            experiment.parameters[name] = payload["param"]["paramValue"]
    elif kind == "log_other" and payload["key"] == "Name":
        experiment.name = payload["value"]
    elif kind == "log_other":
        experiment.others[payload["key"]] = payload["value"]
    elif kind == "file_upload":
        files[str(payload["additional_params"]["fileName"])] = payload["file_path"]
