"""The rows of a comparison: runs that differ in their seed alone are one row.

Place: between what was read (`sources`) and what is shown (`table`, `curves`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.runs.comparison.record import DIRECTORY, FINISHED, RunRecord, Spread
from hf_finetune.runs.comparison.settings import relevant_settings


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        label: What it is called: `<name>/001`, or for several runs `<name>/001-003`.
        runs: The runs that it stands for, by seed.
        data: Stands for the validation and test examples: rows with different ones can't be
            compared by their scores. None where nothing is known.
    """

    label: str
    runs: tuple[RunRecord, ...]
    data: Hashable

    @property
    def status(self) -> str:
        """finished; or how far the run has come."""
        (first, *_) = self.runs
        if first.status == FINISHED:
            return FINISHED
        return f"{first.status}, step {first.step:,}" if first.step else first.status

    @property
    def seeds(self) -> str:
        """The seeds, runs of them shortened: `0-4`."""
        known = [run.seed for run in self.runs if isinstance(run.seed, int)]
        return shorten_numbers([str(seed) for seed in known])

    def spread(self, name: str) -> Spread | None:
        """A score over the runs; None where a run lacks it."""
        values = [run.scores[name] for run in self.runs if name in run.scores]
        return Spread(tuple(values)) if len(values) == len(self.runs) else None


def group_runs(records: Sequence[RunRecord], by_run: bool) -> tuple[list[Row], list[str]]:
    """Makes rows of runs.

    Only finished runs of one name, with equal settings and equal data, are grouped; of two with the
    same seed the later one counts, so that a repeated run doesn't feign a small spread.

    Args:
        records: The runs.
        by_run: Leave every run a row of its own.

    Returns:
        The rows, in the order of their first run; and what there is to say about them.
    """
    titles = name_runs(records)
    data = tell_data_apart(records)
    groups: dict[Hashable, list[int]] = {}
    for place, record in enumerate(records):
        key = None if by_run else _group_key(record, data[place])
        groups.setdefault(place if key is None else key, []).append(place)
    rows, notes = [], []
    for places in groups.values():
        kept, repeated = _keep_latest(places, records)
        notes += [
            f"{titles[old]} has the settings and the seed of {titles[new]}, which is later: "
            "only that one is counted."
            for old, new in repeated
        ]
        kept.sort(key=lambda place: (str(type(records[place].seed)), records[place].seed or 0))
        label = _label([titles[place] for place in kept])
        rows.append(Row(label, tuple(records[place] for place in kept), data[kept[0]]))
    return rows, notes


def _group_key(record: RunRecord, data: Hashable) -> Hashable:
    if record.status != FINISHED or not isinstance(record.seed, int):
        return None
    settings = tuple(sorted((k, repr(v)) for k, v in relevant_settings(record).items()))
    return _split_title(record.title)[0], settings, data, record.fingerprint


def _keep_latest(
    places: Iterable[int], records: Sequence[RunRecord]
) -> tuple[list[int], list[tuple[int, int]]]:
    """The latest run of each seed; and pairs of those left out and those kept instead."""
    latest: dict[Hashable, int] = {}
    repeated = []
    for place in sorted(places, key=lambda place: records[place].started):
        seed = records[place].seed
        key = place if seed is None else ("seed", seed)
        if key in latest:
            repeated.append((latest[key], place))
        latest[key] = place
    return list(latest.values()), [(old, latest["seed", records[old].seed]) for old, _ in repeated]


def name_runs(records: Sequence[RunRecord]) -> list[str]:
    """A title for each run that no other has: with more of its path or of its key if need be."""
    titles = [record.title for record in records]
    places = [
        Path(record.sources[0]).resolve().parts if record.origin == DIRECTORY else ()
        for record in records
    ]
    for length in range(3, max(map(len, places), default=0) + 1):
        names = {_split_title(title)[0] for title in titles if titles.count(title) > 1}
        for number, parts in enumerate(places):
            if parts and _split_title(titles[number])[0] in names:
                titles[number] = "/".join(parts[-length:])
    twice = {title for title in titles if titles.count(title) > 1}
    return [
        f"{title} ({Path(record.sources[0]).name[:8]})" if title in twice else title
        for title, record in zip(titles, records, strict=True)
    ]


def _split_title(title: str) -> tuple[str, str]:
    """Name and number; the number is empty where a title has none."""
    found = re.fullmatch(r"(.+)/([0-9]+)", title)
    return (found[1], found[2]) if found else (title, "")


def _label(titles: Sequence[str]) -> str:
    (name, *others) = dict.fromkeys(_split_title(title)[0] for title in titles)
    numbers = sorted(_split_title(title)[1] for title in titles)
    if others:
        return f"{name} and {len(titles) - 1} more"
    return f"{name}/{shorten_numbers(numbers)}" if all(numbers) else name


def shorten_numbers(numbers: Sequence[str]) -> str:
    """Numbers as people write them: `001-003`, `0, 2`, and of many, how many more."""
    if len(numbers) < 2:
        return "".join(numbers)
    values = [int(number) for number in numbers]
    if values == list(range(values[0], values[0] + len(values))):
        return f"{numbers[0]}-{numbers[-1]}"
    shown = ",".join(numbers[:4])
    return shown if len(numbers) <= 4 else f"{shown},… ({len(numbers)})"


def tell_data_apart(records: Sequence[RunRecord]) -> list[Hashable]:
    """What stands for the validation and test examples of each run; None where nothing is known.

    The split that the run wrote down decides; the fingerprint of all data where there is none.
    """
    known = {
        record.fingerprint: tuple(sorted(record.split_hashes.items()))
        for record in records
        if record.fingerprint and record.split_hashes
    }
    identities: list[Hashable] = []
    for record in records:
        hashes = tuple(sorted(record.split_hashes.items()))
        found = hashes or known.get(record.fingerprint) or record.fingerprint
        identities.append(found or None)
    return identities
