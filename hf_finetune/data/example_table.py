"""Lists the examples of a data set from a table: a CSV or TSV file with a row for each.

One of the two ways in which `folders` lists examples; the other is a tree of class folders.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_finetune.data.listing import SPLIT_WORDS, Example, Listing, Problem, find_split
from hf_finetune.errors import DataError
from hf_finetune.registry import nearest

_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns that are read.

    Attributes:
        path: The file, from the data's folder.
        label: Its class.
        split: train, validation or test; None where the table has no splits.
        groups: Group keys.
    """

    path: str
    label: str
    split: str | None
    groups: tuple[str, ...]


def read_header(table: Path) -> tuple[str, ...]:
    """Names of the columns of a table.

    Raises:
        DataError: It is missing, empty, no UTF-8, or names a column twice.
    """
    rows = _read_rows(table)
    header = tuple(cell.strip() for cell in next(rows, (1, []))[1])
    if not any(header):
        raise DataError(f"{table}: the table is empty. Its first row names the columns.")
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise DataError(f"{table}: two columns are called {twice[0]!r}. Rename one.")
    return header


def list_table(root: Path, table: Path, columns: TableColumns) -> Listing:
    """Lists the files that a table names.

    Args:
        root: The folder that the paths start from.
        table: CSV or TSV, UTF-8, with a header; `,`, `;`, tab or `|` between the cells.
        columns: What to read; the table has all of these.

    Raises:
        DataError: The table can't be read.
    """
    header = read_header(table)
    listing = Listing(group_columns=columns.groups)
    lines: dict[Example, int] = {}
    splits: set[str | None] = set()
    rows = _read_rows(table)
    next(rows)
    for line, cells in rows:
        place = f"{table.name} line {line}"
        if not any(cells):
            continue
        if len(cells) != len(header):
            reason = f"it has {len(cells)} cells for {len(header)} columns"
            listing.problems.append(Problem(place, reason))
            continue
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        splits.add(None if columns.split is None else find_split(row[columns.split]))
        found = _read_example(root, row, columns, place)
        if isinstance(found, Problem):
            listing.problems.append(found)
        elif found in lines:
            reason = f"{place} names it again, after line {lines[found]}"
            listing.problems.append(Problem(found.id, reason))
        else:
            lines[found] = line
    listing.examples = list(lines)
    listing.splits = tuple(name for name in ("train", "validation", "test") if name in splits)
    return listing


def _read_example(
    root: Path, row: dict[str, str], columns: TableColumns, place: str
) -> Example | Problem:
    """A row's example, or what is wrong with it."""
    void = [name for name in (columns.path, columns.label, *columns.groups) if not row[name]]
    if void:
        return Problem(place, f"it has no {void[0]}")
    folder, named = root.absolute(), row[columns.path]
    if "\0" in named:
        return Problem(place, "its path has a null character")
    if "\\" in named and not (folder / named).exists():  # as a table made on Windows has it
        named = named.replace("\\", "/")
    path = Path(os.path.normpath(folder / named))
    if not path.is_relative_to(folder):
        folder = root.resolve()  # whole paths may name what a link leads to
    if not path.is_relative_to(folder):
        return Problem(row[columns.path], f"the path leads out of data.root ({place})")
    file = path.relative_to(folder).as_posix()
    split = None
    if columns.split is not None:
        split = find_split(row[columns.split])
        if split is None:
            advice = nearest(row[columns.split].lower(), list(SPLIT_WORDS)).rstrip("?.")
            return Problem(file, f"unknown split {row[columns.split]!r} ({place}; {advice})")
    return Example(file, row[columns.label], split, tuple(row[name] for name in columns.groups))


def _read_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row's line number and cells."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(_DELIMITERS, key=first.count), strict=True)
            for cells in rows:
                yield rows.line_num, cells
    except FileNotFoundError as error:
        raise DataError(
            f"data.csv: there is no file {str(table)!r}. It is looked for in data.root."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: it is not UTF-8 ({error}). Save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: it can't be read as a table ({error}).") from error
