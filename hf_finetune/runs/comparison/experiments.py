"""From what was logged to a Comet experiment to the record of a run.

Place: shared by the readers of archives and of projects; `trackers.comet` lists what the toolkit
logs, under which name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hf_finetune.runs.comparison.record import (
    UNKNOWN,
    Record,
    RunRecord,
    Setting,
    best_scores,
    join_steps,
)
from hf_finetune.runs.comparison.settings import read_parameters, settle_settings

_BEST, _TEST, _VALIDATION, _PLUGIN = "best_validation/", "test/", "validation/", "plugin/"
_CURVES = ("train/", _VALIDATION, "is_best")


@dataclass
class Experiment:
    """What a Comet experiment holds.

    Attributes:
        key: Its key.
        name: Its name; by default that of the run.
        source: Where it was read.
        origin: `ARCHIVE` or `PROJECT`.
        state: running, finished, crashed or unknown, as Comet sees it.
        started_ms: Milliseconds since 1970 in UTC; None where unknown.
        parameters: Value by name, perhaps as text.
        others: Likewise.
        metrics: Name, value and step of each metric, in the order they were logged.
        tags: Its tags.
        split_hashes: As in `RunRecord`.
    """

    key: str
    name: str
    source: str
    origin: int
    state: str = UNKNOWN
    started_ms: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    metrics: list[tuple[str, Any, Any]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    split_hashes: dict[str, str] = field(default_factory=dict)


def make_record(experiment: Experiment, warn: Callable[[str], None]) -> RunRecord:
    """The run behind an experiment.

    Args:
        experiment: What was read.
        warn: Told where it was logged by something else, or by another version.
    """
    others = {name: str(value) for name, value in experiment.others.items()}
    history = join_steps(_read_history(experiment.metrics))
    scores = {**best_scores(history), **_read_scores(experiment.metrics)}
    if not any(name.startswith(_VALIDATION) for name in scores):
        names = sorted({name for name, _, _ in experiment.metrics})
        shown = ", ".join(names[:5]) or "none"
        warn(
            f"{experiment.source}: has no metric validation/…, only {shown}; it wasn't logged "
            "by this toolkit, or hasn't come to its first evaluation."
        )
    keys = {experiment.key, others.get("run_id", "")}
    return RunRecord(
        title=others.get("run_name") or experiment.name,
        sources=(experiment.source,),
        origin=experiment.origin,
        keys=frozenset(key for key in keys if key),
        status=_settle_status(others.get("run_status", ""), experiment.state),
        settings=_settle(experiment, others, warn),
        scores=scores,
        history=history,
        tags=frozenset(experiment.tags),
        started=_format_time(experiment.started_ms),
        fingerprint=others.get("data_fingerprint", ""),
        split_hashes=experiment.split_hashes,
    )


def _settle(
    experiment: Experiment, others: dict[str, str], warn: Callable[[str], None]
) -> dict[str, Setting]:
    settings, problem = settle_settings(read_parameters(experiment.parameters))
    if problem is not None and experiment.parameters:
        warn(
            f"{experiment.source}: its parameters are no configuration of this version ({problem})"
            "; they are taken as they were logged."
        )
    plugins = {name: value for name, value in others.items() if name.startswith(_PLUGIN)}
    named = {f"plugin {name.removeprefix(_PLUGIN)}": value[:8] for name, value in plugins.items()}
    return {**settings, **named}


def _settle_status(logged: str, state: str) -> str:
    """What the run said last; where it never came to say so, what Comet saw of it."""
    if logged not in ("", "running"):
        return logged
    seen = {"crashed": "failed", "finished": "killed" if logged else "finished"}
    return seen.get(state, logged or UNKNOWN)


def _read_history(metrics: Iterable[tuple[str, Any, Any]]) -> Iterable[Record]:
    for name, value, step in metrics:
        number, at = _read_number(value), _read_number(step)
        if name.startswith(_CURVES) and number is not None and at is not None:
            yield {"step": int(at), name: number}


def _read_scores(metrics: Iterable[tuple[str, Any, Any]]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for name, value, _ in metrics:
        number = _read_number(value)
        if number is None or "/per_class/" in name or not name.startswith((_BEST, _TEST)):
            continue
        named = name.replace(_BEST, _VALIDATION, 1) if name.startswith(_BEST) else name
        scores[named] = number
    return scores


def _read_number(value: Any) -> float | None:
    """A finite number, which may come as text; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _format_time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
