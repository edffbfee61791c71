"""From the words of a command to the runs that they name.

Place: the first step of a comparison; a reader each for run directories, archives and projects.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.runs.comparison.comet_archives import is_archive, read_archive
from hf_finetune.runs.comparison.comet_projects import PREFIX, read_project
from hf_finetune.runs.comparison.record import RunRecord, merge_records
from hf_finetune.runs.comparison.run_directories import is_run, read_run

_NAMES = (
    "a run directory, a folder of runs, a pattern, a Comet archive (.zip) or "
    "comet:workspace/project"
)


def read_runs(
    words: Sequence[str], tags: Iterable[str], warn: Callable[[str], None]
) -> list[RunRecord]:
    """Reads everything that is named, each run once.

    Args:
        words: Run directories, folders of runs, patterns, Comet archives, `comet:…` projects.
        tags: Keep the runs that have all of these.
        warn: Told of what is damaged or left out.

    Returns:
        The runs, in the order they were named.

    Raises:
        UserError: A word names nothing, or no run is left.
    """
    records: list[RunRecord] = []
    seen: set[Path] = set()
    for word in words:
        if word.startswith(PREFIX):
            records += read_project(word, warn)
            continue
        for path in _find_paths(word):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                record = read_run(path, warn) if path.is_dir() else read_archive(path, warn)
                records += [] if record is None else [record]
    if not records:
        raise UserError(f"compare: {' '.join(words)}: no run could be read.")
    merged, wanted = merge_records(records), frozenset(tags)
    kept = [record for record in merged if wanted <= record.tags]
    if not kept:
        known = sorted({tag for record in merged for tag in record.tags})
        raise UserError(
            f"--tag: none of {len(merged)} runs has {_quote(wanted)}. "
            f"Tags there: {', '.join(known) or 'none'}."
        )
    return kept


def _quote(words: Iterable[str]) -> str:
    return " and ".join(repr(word) for word in sorted(words))


def _find_paths(word: str) -> list[Path]:
    """Run directories and archives behind a path or a pattern, in order.

    Raises:
        UserError: There are none.
    """
    path = Path(word)
    places = [path] if path.exists() else _match(path)
    if not places:
        raise UserError(f"{word}: there is no such place. Name {_NAMES}.")
    found = [item for place in places for item in _search(place)]
    if not found:
        raise UserError(f"{word}: there is no run here. Name {_NAMES}.")
    return found


def _match(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor)
    return sorted(root.glob(str(pattern.relative_to(root)))) if pattern.parts else []


def _search(place: Path) -> list[Path]:
    """The place itself, or the runs and archives below it; what lies in a run belongs to it."""
    if place.is_file():
        return [place] if place.suffix == ".zip" else []
    found: list[Path] = []
    for folder, folders, files in os.walk(place):
        here = Path(folder)
        if is_run(here):
            found.append(here)
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [here / name for name in files if is_archive(here / name)]
    return sorted(found)
