"""Looks once at every file that lies inside a table, and remembers what was found.

As `file_scan`, for data sets whose files are cells; `hub` scans its splits with it.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow.compute as pc
from datasets import Dataset

from hf_finetune.data.file_scan import Facts, measure_all, memory_path, recall, remember
from hf_finetune.errors import DataError

Measure = Callable[[str, bytes | None], Facts]


def scan_rows(
    split: Dataset, column: str, names: Sequence[str], noun: str, measure: Measure, recipe: str
) -> tuple[list[Facts | str], tuple[str, ...]]:
    """Measures every cell that wasn't measured before.

    Args:
        split: A plain Dataset without indices.
        column: Structs of `bytes` and `path`, one of which may be null.
        names: What to call each row where its cell has bytes.
        noun: What a cell is, for messages.
        measure: Takes a file's path, or its name and its bytes; answers with plain values, or
            raises DataError for a file that can't be used. Called from several threads.
        recipe: Says what `measure` does; facts of another recipe are not taken.

    Returns:
        By row: the facts, or a phrase on what is wrong; and warnings of what was survived.
    """
    chunks = split.data.table.column(column).chunks
    starts = [0, *accumulate(map(len, chunks))]

    def measure_row(row: int) -> Facts | str:
        chunk = bisect_right(starts, row) - 1
        cell = chunks[chunk][row - starts[chunk]].as_py()
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            return f"it has no {noun}"
        name = names[row] if cell["bytes"] is not None else cell["path"]
        try:
            return measure(name, cell["bytes"])
        except DataError as error:
            return str(error).removeprefix(f"{name}: ").rstrip(".")

    memory = _memory_of(split, column, recipe)
    known = {} if memory is None else {row.pop("row"): row for row in recall(memory)}
    found: dict[int, Facts | str] = dict(known)
    fresh = [row for row in range(len(split)) if row not in known]
    lengths = pc.binary_length(pc.struct_field(split.data.table.column(column), "bytes"))
    sizes = pc.fill_null(lengths, 0).to_pylist()
    problem = None
    try:
        for row, facts in measure_all(fresh, [sizes[row] for row in fresh], measure_row):
            found[row] = facts
    finally:  # so that a scan that was stopped goes on from there
        if fresh and memory is not None:
            rows = [
                {"row": row, **facts} for row, facts in found.items() if isinstance(facts, dict)
            ]
            problem = remember(memory, rows)
    return [found[row] for row in range(len(split))], () if problem is None else (problem,)


def _memory_of(split: Dataset, column: str, recipe: str) -> Path | None:
    """What remembers the facts of a split, by the files that it lies in; None if in none."""
    files = [Path(file["filename"]) for file in split.cache_files]
    states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return memory_path(recipe, json.dumps([column, states])) if states else None
