"""Writes a split down as a table, and takes it from there again.

A run keeps its split so (`split.csv`); `division` follows such a file where `data.split.file` names
one.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_finetune.data.listing import find_split
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

SPLIT_FILE, UNUSED = "split.csv", "unused"
_COLUMNS = ("id", "split", "content")
_BLOCK_ROWS = 256
_SHOWN = 3


def write_split(path: Path, splits: Mapping[str, Sequence[Dataset]]) -> str:
    """Writes a line for each row, ordered by id: its id, its split, a hash of content and label.

    Args:
        path: CSV, UTF-8.
        splits: The rows of each split, and those of `unused`.

    Returns:
        SHA-256 of the file: equal for equal splits of equal data.
    """
    lines = [
        (row_id, name, content)
        for name, parts in splits.items()
        for part in parts
        for row_id, content in zip(column_values(part, "id"), hash_rows(part), strict=True)
    ]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(sorted(lines))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def follow_split(path: str, rows: Dataset) -> dict[str, np.ndarray]:
    """Finds the rows of each split that a file names.

    Args:
        path: CSV with the columns `id`, `split` and perhaps `content`, in any order; or the
            directory of a run, which holds one.
        rows: Everything that the data gives.

    Returns:
        Row numbers by split (train, validation, test, unused), each int64 and rising. A split
        without rows is left out.

    Raises:
        DataError: The file is missing or no such table; it names an id that the data lacks, or the
            data has one that it lacks; a row is no longer what it was; two rows share an id.
    """
    file = Path(path) / SPLIT_FILE if Path(path).is_dir() else Path(path)
    where = f"data.split.file: {str(file)!r}"
    wanted = _read_split(file, where)
    ids = column_values(rows, "id")
    twice = [row_id for row_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(
            f"{where} can't be followed: {_count(twice, 'id')} of the data "
            "stand for several rows. Rename them."
        )
    here = set(ids)
    unknown = [row_id for row_id in wanted if row_id not in here]
    missing = [row_id for row_id in ids if row_id not in wanted]
    for found, told in (
        (unknown, "that the data doesn't have"),
        (missing, "too few: the data has more"),
    ):
        if found:
            raise DataError(
                f"{where} names {_count(found, 'id')} {told}. Take the data that the split was "
                "made of, or split anew without data.split.file."
            )
    contents = [wanted[row_id][1] for row_id in ids]
    if any(contents):
        _check_contents(where, ids, contents, hash_rows(rows))
    names = np.asarray([wanted[row_id][0] for row_id in ids])
    return {str(name): np.flatnonzero(names == name) for name in np.unique(names)}


def hash_rows(rows: Dataset) -> list[str]:
    """A hash of content and label for each row, 16 hex digits; empty where there is no content."""
    names = rows.features["label"].names
    labels = [names[label].encode() for label in column_values(rows, "label")]
    contents = _read_contents(rows)
    if contents is None:
        return [""] * len(rows)
    hashes = []
    for label, content in zip(labels, contents, strict=True):
        digest = hashlib.blake2b(content, digest_size=8)
        digest.update(label)
        hashes.append(digest.hexdigest())
    return hashes


def _read_contents(rows: Dataset) -> Iterable[bytes] | None:
    """Each row's decoded content, or a hash of it that is known."""
    if "measured" in rows.column_names:
        return (digest.encode() for digest in column_values(rows, "measured", "digest"))
    return _read_images(rows) if "image" in rows.column_names else None


def _read_images(rows: Dataset) -> Iterator[bytes]:
    reader = RowReader(rows, ["image"])
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = reader.read(np.arange(start, min(start + _BLOCK_ROWS, len(rows))))["image"]
        yield from (image.tobytes() for image in block)


def _read_split(file: Path, where: str) -> dict[str, tuple[str, str]]:
    """Split and content by id."""
    wanted: dict[str, tuple[str, str]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            table = csv.DictReader(text, strict=True)
            columns = table.fieldnames or ()
            if not {"id", "split"} <= {*columns}:
                found = ", ".join(columns) or "none: it is empty"
                raise DataError(f"{where} needs the columns id and split, and has {found}.")
            for row in table:
                name = UNUSED if row["split"] == UNUSED else find_split(row["split"] or "")
                if name is None:
                    raise DataError(
                        f"{where} line {table.line_num}: unknown split {row['split']!r}. "
                        "Allowed: train, validation, test, unused."
                    )
                if row["id"] in wanted:
                    raise DataError(
                        f"{where} line {table.line_num}: {row['id']!r} stands there a second time. "
                        "Each id has one split."
                    )
                wanted[row["id"]] = (name, row.get("content") or "")
    except FileNotFoundError as error:
        raise DataError(
            f"{where} is not there. Name the split.csv of a run, or its directory."
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where} can't be read as a table ({error}).") from error
    names = {name for name, _ in wanted.values()}
    if not {"train", "test"} <= names:
        lacking = "train" if "train" not in names else "test"
        raise DataError(f"{where} names no {lacking} rows. Name some (validation may be left out).")
    return wanted


def _check_contents(
    where: str, ids: Sequence[str], known: Sequence[str], found: Sequence[str]
) -> None:
    changed = [
        row_id
        for row_id, before, now in zip(ids, known, found, strict=True)
        if before and now and before != now
    ]
    if changed:
        raise DataError(
            f"{where} was made of other data: content or label of {_count(changed, 'row')} changed "
            "since. Take the data that it was made of, or split anew without data.split.file."
        )


def _count(ids: Sequence[str], noun: str) -> str:
    shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
    return f"{len(ids):,} {noun}{'s' * (len(ids) > 1)} ({shown})"
