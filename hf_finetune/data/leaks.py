"""Finds what lies on both sides of a split though it belongs together: groups and copied files.

`preparation` stops or warns at what is found here, and `audit` lists it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from datasets import Dataset

from hf_finetune.data.tables import column_values, distinct_values
from hf_finetune.errors import DataError

PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))
_SHOWN = 3


@dataclass(frozen=True)
class Overlap:
    """Group keys that two splits share.

    Attributes:
        column: The group column.
        splits: The two splits.
        keys: The shared keys, sorted.
        num_keys: How many keys the first of the splits has.
    """

    column: str
    splits: tuple[str, str]
    keys: tuple[str, ...]
    num_keys: int


def find_overlaps(splits: Mapping[str, Dataset], columns: Sequence[str]) -> list[Overlap]:
    """Every overlap of some group columns, column by column."""
    return [
        overlap
        for column in columns
        for overlap in list_overlaps(
            column, {name: distinct_values(split, column) for name, split in splits.items()}
        )
    ]


def list_overlaps(column: str, keys: Mapping[str, set[str]]) -> list[Overlap]:
    """Every overlap of the keys of one column, by split."""
    shared = {pair: keys[pair[0]] & keys[pair[1]] for pair in PAIRS}
    return [
        Overlap(column, pair, tuple(sorted(both)), len(keys[pair[0]]))
        for pair, both in shared.items()
        if both
    ]


def check_groups(
    splits: Mapping[str, Dataset],
    columns: Sequence[str],
    group_columns: Sequence[str],
    allow_overlap: bool,
) -> list[str]:
    """Group keys that lie on both sides of a split, in words.

    Args:
        splits: train, validation, test.
        columns: Columns of group keys.
        group_columns: Those of them whose groups are to lie in one split each.
        allow_overlap: Survive it where they don't.

    Raises:
        DataError: One of `group_columns` lies on both sides, and this is not allowed.
    """
    warnings = []
    for overlap in find_overlaps(splits, columns):
        (name, other), column = overlap.splits, overlap.column
        is_promised = column in group_columns
        shared = f"{name} shares {len(overlap.keys):,} of its {column} keys with {other}"
        if is_promised and not allow_overlap:
            listed = ", ".join(overlap.keys[:_SHOWN]) + ", …" * (len(overlap.keys) > _SHOWN)
            raise DataError(
                f"data.split: {shared} ({listed}), so its score would flatter the model. Split "
                f"anew by {column} (data.split.pool_given: true), hold other columns together "
                "(data.split.group_by), or accept it with data.split.allow_overlap: true"
            )
        if is_promised or other == "train":
            warnings.append(f"{shared}, so its score may flatter the model")
    return warnings


def check_duplicates(splits: Mapping[str, Dataset]) -> list[str]:
    """Files of equal content in two splits, in words."""
    if "measured" not in splits["train"].column_names:
        return []
    ids = {
        name: dict(
            zip(column_values(split, "measured", "digest"), column_values(split, "id"), strict=True)
        )
        for name, split in splits.items()
    }
    warnings = []
    for name, other in PAIRS:
        shared = [digest for digest in ids[name] if digest in ids[other]]
        if shared:
            warnings.append(
                f"{name} shares {len(shared)} of its files with {other} "
                f"({ids[name][shared[0]]} is {ids[other][shared[0]]}), so its score may flatter "
                "the model"
            )
    return warnings
