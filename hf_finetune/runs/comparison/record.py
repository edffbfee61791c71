"""What a comparison knows of one run, wherever it was read, and how two accounts of it become one.

Place: the readers (`run_directories`, `comet_archives`, `comet_projects`) make records; `rows`
groups them.
"""

from __future__ import annotations

import csv
import hashlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Setting = str | int | float | bool | None
Record = Mapping[str, Any]

FINISHED, UNKNOWN = "finished", "unknown"
# Where two tell of the same run, the run directory is believed first.
DIRECTORY, ARCHIVE, PROJECT = 0, 1, 2


@dataclass(frozen=True)
class RunRecord:
    """One run.

    Attributes:
        title: What it is called: `<name>/<number>`, or the experiment's name.
        sources: Where it was read.
        origin: `DIRECTORY`, `ARCHIVE` or `PROJECT`: the most trusted of its sources.
        keys: The run's id and its experiment's key; empty where neither is known.
        status: finished, running, stopped, failed, killed or unknown.
        settings: The configuration by dotted key; lists as JSON text.
        scores: `validation/<name>` of the best evaluation, `test/<name>` where it has been scored.
        history: One record a step, in order, as in history.jsonl.
        tags: Words that it was given.
        started: When, ISO 8601; empty where unknown.
        fingerprint: Hash of all its data and of the split; empty where unknown.
        split_hashes: Hash of the rows of validation and test; empty where unknown.
    """

    title: str
    sources: tuple[str, ...]
    origin: int
    keys: frozenset[str] = frozenset()
    status: str = UNKNOWN
    settings: Mapping[str, Setting] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    history: Sequence[Record] = ()
    tags: frozenset[str] = frozenset()
    started: str = ""
    fingerprint: str = ""
    split_hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> Setting:
        """The run's seed; None where unknown."""
        return self.settings.get("seed")

    @property
    def step(self) -> int:
        """The last step that is known of."""
        return max((int(record["step"]) for record in self.history), default=0)


def best_scores(history: Iterable[Record]) -> dict[str, float]:
    """Validation's scores at the last evaluation that was the best so far."""
    best: Record = {}
    for record in history:
        if record.get("is_best"):
            best = record
    return {name: value for name, value in best.items() if name.startswith("validation/")}


def join_steps(records: Iterable[Record]) -> tuple[Record, ...]:
    """One record a step, in order; of two values for a name the first counts."""
    steps: dict[int, dict[str, Any]] = {}
    for record in records:
        if isinstance(record.get("step"), int | float):
            known = steps.setdefault(int(record["step"]), {})
            for name, value in record.items():
                known.setdefault(name, value)
    return tuple(steps[step] for step in sorted(steps))


def hash_splits(lines: Iterable[str]) -> dict[str, str]:
    """A hash of the rows of validation and of test.

    Args:
        lines: A run's split.csv.

    Returns:
        By split; empty where rows have no content: equal names alone make no equal data.

    Raises:
        KeyError: A column is missing.
    """
    digests = {name: hashlib.sha256() for name in ("validation", "test")}
    for row in csv.DictReader(lines):
        if not row["content"]:
            return {}
        if row["split"] in digests:
            digests[row["split"]].update(f"{row['id']}\0{row['content']}\n".encode())
    return {name: digest.hexdigest()[:16] for name, digest in digests.items()}


def merge_records(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Counts each run once: records that share a key are one run.

    Args:
        records: As they were read, in the order they were asked for.

    Returns:
        One record a run, in the order of its first source. What the run directory says wins over
        an archive, and that over a project; the newer of two archives wins.
    """
    groups: list[list[RunRecord]] = []
    for record in records:
        same = [group for group in groups if any(record.keys & other.keys for other in group)]
        for group in same[1:]:
            same[0].extend(group)
            groups.remove(group)
        if same:
            same[0].append(record)
        else:
            groups.append([record])
    return [_join(group) for group in groups]


def _join(records: Sequence[RunRecord]) -> RunRecord:
    newest = sorted(records, key=lambda record: record.started, reverse=True)
    joined, *others = sorted(newest, key=lambda record: record.origin)
    for other in others:
        known = other if joined.status == UNKNOWN else joined
        joined = replace(
            joined,
            sources=tuple(dict.fromkeys((*joined.sources, *other.sources))),
            keys=joined.keys | other.keys,
            status=known.status,
            settings=joined.settings or other.settings,
            scores={**other.scores, **joined.scores},
            history=join_steps((*joined.history, *other.history)),
            tags=joined.tags | other.tags,
            started=joined.started or other.started,
            fingerprint=joined.fingerprint or other.fingerprint,
            split_hashes=joined.split_hashes or other.split_hashes,
        )
    return joined


@dataclass(frozen=True)
class Spread:
    """One score of several runs.

    Attributes:
        values: One a run.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1); None of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None
