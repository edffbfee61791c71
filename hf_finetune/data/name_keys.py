"""Notices group keys that file names carry and nobody has named: `7_jackson_12.wav`.

`preparation` warns of them where nothing else holds rows together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

KEY_WORDS = (
    *("speaker", "spk", "singer", "actor", "patient", "subject", "subj", "person", "participant"),
    *("user", "session", "recording", "camera", "scene", "site", "group"),
)
_COUNTERS = re.compile(r"(?i)^(img|image|pic|frame|take|clip|rec|utt|sample|file|copy|scan)?\d*$")
_KEY_WORD = re.compile(rf"(?i)^({'|'.join(KEY_WORDS)})s?(?:_?id)?(\d*)$")


@dataclass(frozen=True)
class NameKey:
    """A part of the file names that looks like a group key.

    Attributes:
        values: The key of each row.
        pattern: What to write as `data.group_pattern`.
    """

    values: tuple[str, ...]
    pattern: str


def warn_of_columns(header: Sequence[str], used: Sequence[str | None]) -> list[str]:
    """Says so where columns of a table are called like group keys, and nothing uses them."""
    unused = [name for name in header if name not in used and _KEY_WORD.match(name)]
    if not unused:
        return []
    return [
        f"the table's column {unused[0]} looks like a group key, and nothing holds its rows "
        f"together. If they belong together, write data.group_columns: [{unused[0]}]; if not, "
        "data.split.group_by: none"
    ]


def warn_of_names(splits: DatasetDict | dict[str, Dataset]) -> list[str]:
    """Says so where file names seem to carry a key that lies on both sides of a split.

    Args:
        splits: train, validation, test; their ids are paths.
    """
    from hf_finetune.data.tables import column_values

    names = [name for name, split in splits.items() for _ in range(len(split))]
    ids = [row for split in splits.values() for row in column_values(split, "id")]
    labels = [label for split in splits.values() for label in column_values(split, "label")]
    key = find_name_key(ids, labels)
    if key is None:
        return []
    in_train = {value for value, name in zip(key.values, names, strict=True) if name == "train"}
    shared = [
        row
        for row, (value, name) in enumerate(zip(key.values, names, strict=True))
        if name == "test" and value in in_train
    ]
    if not shared:
        return []
    row = shared[0]
    return [
        f"the file names seem to carry a group key ({ids[row]}: {key.values[row]}), and test "
        f"shares {len({key.values[row] for row in shared}):,} of them with train. If such files "
        f"belong together, write data.group_pattern: '{key.pattern}'; if not, "
        "data.split.group_by: none"
    ]


def find_name_key(ids: Sequence[str], labels: Sequence[int]) -> NameKey | None:
    """A part of all names that recurs like a speaker or a patient does.

    Names count if all have the same number of parts between `_` or `-`. A part is taken if a word
    such as speaker or patient begins it or stands before it; else the only one that has letters,
    recurs, and is neither the class nor a counter such as img12. Where no part of the names is one,
    it may be the whole of them, which recurs from class to class (a sentence that is spoken in each
    of several moods), or the folder that they lie in.

    Args:
        ids: Paths of files.
        labels: Label id of each.
    """
    paths = [PurePosixPath(row) for row in ids]
    stems = [path.stem for path in paths]
    mark = "_" if all("_" in stem for stem in stems) else "-"
    rows = [stem.split(mark) for stem in stems]
    key = _find_part(rows, mark, labels)
    if key is None and not any(len(parts) > 1 for parts in rows) and _is_spread(stems, labels):
        key = NameKey(tuple(stems), "{group}")
    folders = tuple(path.parent.name for path in paths)
    is_even = len({len(path.parts) for path in paths}) == 1  # else some are the class's own
    if key is None and is_even and _is_recurring(folders, labels) and not _is_counted(folders):
        key = NameKey(folders, "{group}/*")
    return key


def _find_part(rows: Sequence[Sequence[str]], mark: str, labels: Sequence[int]) -> NameKey | None:
    """The part between marks that is a key, if one alone seems to be."""
    if len({len(parts) for parts in rows}) != 1 or len(rows[0]) < 2:
        return None
    columns = [tuple(column) for column in zip(*rows, strict=True)]
    recurring = [place for place, column in enumerate(columns) if _is_recurring(column, labels)]
    called = [place for place in recurring if _is_called(columns, place)]
    chosen = called or [place for place in recurring if not _is_counted(columns[place])]
    if len(chosen) != 1:
        return None
    parts = ["{group}" if place == chosen[0] else "*" for place in range(len(columns))]
    return NameKey(columns[chosen[0]], mark.join(parts))


def _is_counted(column: Sequence[str]) -> bool:
    """Whether a tenth or more of the values are counters; of hexadecimal names few look so."""
    values = {*column}
    return 10 * sum(_COUNTERS.match(value) is not None for value in values) >= len(values)


def _is_spread(stems: Sequence[str], labels: Sequence[int]) -> bool:
    """Whether names recur from class to class, and are more than a numbering of each class."""
    names = {*stems}
    is_numbering = len({re.sub(r"\d+", "", name) for name in names}) < len(names) / 2
    pairs = {*zip(stems, labels, strict=True)}
    return not is_numbering and not _is_counted(stems) and len(pairs) >= 1.5 * len(names)


def _is_recurring(column: Sequence[str], labels: Sequence[int]) -> bool:
    """Several values, each of several rows on average, and not just the class in other words."""
    values = {*column}
    is_class = len({*zip(column, labels, strict=True)}) == len(values) <= len({*labels})
    return 2 <= len(values) <= len(column) / 3 and not is_class


def _is_called(columns: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a word for a key begins every value, or is all of the part before."""
    words = [_KEY_WORD.match(value) for value in columns[place]]
    before = {*columns[place - 1]} if place else set()
    is_named = len(before) == 1 and _KEY_WORD.match(next(iter(before))) is not None
    return is_named or all(word is not None and word[2] for word in words)
