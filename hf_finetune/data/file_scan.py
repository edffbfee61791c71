"""Reads each file of a data set once, in threads, and remembers what was found for the next run.

Shared by the data sets of one file an example. What is found lies in the user's cache folder, by
path, size and time of change of each file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from hf_finetune.data.cache_folder import cache_folder
from hf_finetune.data.file_threads import read_files
from hf_finetune.errors import DataError
from hf_finetune.progress_bar import progress_bar

_BLOCK_FILES = 128  # how many are handed to the threads at a time, and lost at most by Ctrl-C
_FORMAT = 1  # of the remembered facts; another number leaves older ones aside

Facts = dict[str, Any]
File = TypeVar("File")


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        facts: What `measure` answered, by file.
        faults: What is wrong with each other file.
        warnings: What was survived.
    """

    facts: dict[str, Facts]
    faults: dict[str, str]
    warnings: tuple[str, ...]


def scan_files(
    root: Path, files: Sequence[str], measure: Callable[[Path], Facts], recipe: str
) -> Scan:
    """Measures every file that is new or has changed since it was last measured.

    Args:
        root: The data's folder.
        files: Paths below it, each once.
        measure: Reads a file and answers with plain values (numbers, text, lists of them); raises
            DataError for a file that can't be used. Called from several threads.
        recipe: Says what `measure` does; facts of another recipe are not taken.
    """
    memory = memory_path(recipe, str(root.resolve()))
    rows = recall(memory)
    known = {(row.pop("file"), row.pop("size"), row.pop("mtime_ns")): row for row in rows}
    facts: dict[str, Facts] = {}
    faults: dict[str, str] = {}
    fresh: list[tuple[str, os.stat_result]] = []
    for file in files:
        try:
            status = (root / file).stat()
        except OSError as error:
            faults[file] = _say_missing(root / file, error)
            continue
        if not stat.S_ISREG(status.st_mode):
            faults[file] = "it is no regular file"
        elif (old := known.get((file, status.st_size, status.st_mtime_ns))) is not None:
            facts[file] = old
        else:
            fresh.append((file, status))

    def measure_one(file: tuple[str, os.stat_result]) -> Facts | str:
        path = root / file[0]
        try:
            return measure(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ").rstrip(".")

    try:
        sizes = [status.st_size for _, status in fresh]
        for (file, status), found in measure_all(fresh, sizes, measure_one):
            if isinstance(found, str):
                faults[file] = found
            else:
                facts[file] = known[(file, status.st_size, status.st_mtime_ns)] = found
    finally:  # so that a scan that was stopped goes on from there
        latest = {key[0]: (key, facts) for key, facts in known.items()}  # one a file, the newest
        kept = [
            {"file": file, "size": size, "mtime_ns": mtime_ns, **facts}
            for (file, size, mtime_ns), facts in latest.values()
        ]
        problem = remember(memory, kept) if fresh else None
    return Scan(facts, faults, () if problem is None else (problem,))


def measure_all(
    files: Sequence[File], sizes: Sequence[int], measure: Callable[[File], Facts | str]
) -> Iterator[tuple[File, Facts | str]]:
    """Each file with its facts, or with what is wrong with it; in the order given.

    Args:
        files: What `measure` is called with, from several threads.
        sizes: Bytes of each.
        measure: Answers with facts, or with a phrase on what is wrong.
    """
    with progress_bar(len(files), "reading", "file", delay_seconds=1) as bar:
        for start in range(0, len(files), _BLOCK_FILES):
            block = files[start : start + _BLOCK_FILES]
            num_bytes = sum(sizes[start : start + _BLOCK_FILES])
            found = read_files(measure, block, num_bytes, os.cpu_count() or 1)
            yield from zip(block, found, strict=True)
            bar.update(len(block))


def _say_missing(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        missing = "there is no such file in data.root"
        return "the link leads nowhere" if path.is_symlink() else missing
    return f"it can't be opened ({error.strerror})"


def memory_path(recipe: str, place: str) -> Path:
    """The file that remembers what a recipe found at a place, which is any text that tells it."""
    key = hashlib.sha256(f"{_FORMAT}\0{recipe}\0{place}".encode()).hexdigest()
    return cache_folder() / "scans" / f"{key[:32]}.parquet"


def recall(memory: Path) -> list[Facts]:
    """Rows that were remembered; none where they can't be read."""
    try:
        rows: list[Facts] = pq.read_table(memory).to_pylist() if memory.exists() else []
        return rows
    except (OSError, pa.ArrowException):
        return []


def remember(memory: Path, rows: list[Facts]) -> str | None:
    """Writes all rows, whole or not at all; what is wrong if they can't be written."""
    if not rows:
        return None
    unfinished = memory.with_name(f".{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), unfinished)
        unfinished.replace(memory)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        return (
            f"what the scan of the data found can't be kept in {str(memory.parent)!r} "
            f"({error.strerror}), so every run reads all files again. Name a folder that can be "
            "written with HF_FINETUNE_CACHE"
        )
    return None
