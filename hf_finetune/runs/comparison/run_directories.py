"""Reads run directories for a comparison, whole or damaged, without torch.

Place: one of the readers behind `sources`; `runs.run_dir` says what a run directory holds.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from hf_finetune.errors import UserError
from hf_finetune.runs.comparison.record import (
    DIRECTORY,
    UNKNOWN,
    Record,
    RunRecord,
    Setting,
    best_scores,
    hash_splits,
    join_steps,
)
from hf_finetune.runs.comparison.settings import settle_settings
from hf_finetune.runs.run_dir import CONFIG, METRICS, STATUS

Warn = Callable[[str], None]
_HISTORY, _SPLIT, _COMET = "history.jsonl", "split.csv", "comet.json"


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, perhaps one that has lost its run.json."""
    has = {name for name in (STATUS, CONFIG, METRICS, _HISTORY) if (folder / name).is_file()}
    return STATUS in has or (CONFIG in has and len(has) > 1)


def read_run(folder: Path, warn: Warn) -> RunRecord:
    """Reads what there is of a run.

    Args:
        folder: The run directory.
        warn: Told of what is missing or damaged; the rest is read all the same.
    """
    status = _read_json(folder / STATUS, warn, expected=True)
    settings = _read_settings(folder / CONFIG, warn)
    for path, sha256 in (_mapping(status, "plugins")).items():
        settings[f"plugin {path}"] = str(sha256)[:8]
    history = join_steps(_read_history(folder / _HISTORY, warn))
    keys = {status.get("run_id"), _read_json(folder / _COMET, warn).get("experiment_key")}
    place = folder.resolve()
    return RunRecord(
        title=f"{place.parent.name}/{place.name}",
        sources=(str(folder),),
        origin=DIRECTORY,
        keys=frozenset(str(key) for key in keys if key),
        status=_settle_status(folder, str(status.get("status", UNKNOWN))),
        settings=settings,
        scores={**best_scores(history), **_read_scores(folder / METRICS, warn)},
        history=history,
        tags=frozenset(_read_tags(settings)),
        started=str(status.get("started", "")),
        fingerprint=str(status.get("data_fingerprint", "")),
        split_hashes=_hash_splits(folder / _SPLIT, warn),
    )


def _read_json(path: Path, warn: Warn, expected: bool = False) -> dict[str, Any]:
    if not path.is_file():
        if expected:
            warn(f"{path}: missing; how the run ended isn't known.")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return _damaged(path, str(error), warn)
    return content if isinstance(content, dict) else _damaged(path, "no JSON object", warn)


def _damaged(path: Path, reason: str, warn: Warn) -> dict[str, Any]:
    warn(f"{path}: damaged ({reason}); the run is shown without it.")
    return {}


def _mapping(content: dict[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key)
    return found if isinstance(found, dict) else {}


def _read_settings(path: Path, warn: Warn) -> dict[str, Setting]:
    from hf_finetune.config.yaml_text import read_file, read_yaml

    try:
        tree = read_yaml(read_file(path), str(path)).tree
    except UserError as error:
        warn(f"{error} The run is shown without its settings.")
        return {}
    settings, problem = settle_settings(tree)
    if problem is not None:
        warn(f"{path}: of another version's layout ({problem}); its settings are taken as written.")
    return settings


def _read_history(path: Path, warn: Warn) -> list[Record]:
    """The records; a last line that a kill cut off is no damage."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    except (OSError, ValueError) as error:
        _damaged(path, str(error), warn)
        return []
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        elif number < len(lines):
            warn(f"{path}:{number}: damaged; the curves go on without this line.")
    return records


def _read_scores(path: Path, warn: Warn) -> dict[str, float]:
    content = _read_json(path, warn)
    scores: dict[str, float] = {}
    for split in ("validation", "test"):
        found = _mapping(content, split)
        scores |= {f"{split}/{name}": value for name, value in found.items() if _is_number(value)}
    if content and not scores:
        warn(f"{path}: holds no scores of validation or test; it is of another version's layout.")
    return scores


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_tags(settings: dict[str, Setting]) -> Iterable[str]:
    """The tags that the run gave to its trackers."""
    for key, value in settings.items():
        if key.startswith("tracking.") and key.endswith(".tags"):
            tags = json.loads(str(value))
            yield from tags if isinstance(tags, list) else []


def _hash_splits(path: Path, warn: Warn) -> dict[str, str]:
    try:
        return hash_splits(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else {}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        _damaged(path, f"{type(error).__name__}: {error}", warn)
        return {}


def _settle_status(folder: Path, status: str) -> str:
    """The status, `killed` where it says running and nobody is at work on it."""
    if status == "running" and not _is_held(folder / ".lock"):
        return "killed"
    return status


def _is_held(lock: Path) -> bool:
    """Whether a process holds the run (`RunDir.locked`); nothing is written to find out."""
    try:
        import fcntl

        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except (ImportError, OSError):  # held; or this system can't tell
        return True
    return False
