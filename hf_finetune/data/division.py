"""Divides the rows that the data gives into train, validation and test, as `data.split` asks.

Between the files, which bring some splits, and `preparation`, which checks what training takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_finetune.data import SplitOptions
from hf_finetune.data.folds import deal_groups, deal_rows
from hf_finetune.data.split_files import follow_split
from hf_finetune.data.splits import connect_groups, hold_out_groups, hold_out_rows
from hf_finetune.data.tables import RowReader, column_values, distinct_values, select_rows
from hf_finetune.errors import DataError
from hf_finetune.registry import nearest

SPLITS = ("train", "validation", "test")
_OWN_COLUMNS = {"id", "image", "audio", "label", "measured"}
_NAMED_GROUPS = 3


@dataclass(frozen=True)
class Division:
    """How the rows are divided.

    Attributes:
        splits: train, validation, test.
        unused: Rows that are in none of them.
        group_columns: Columns whose groups are to lie in one split each.
        description: One phrase on how validation and test were chosen.
        warnings: What was survived.
    """

    splits: dict[str, Dataset]
    unused: tuple[Dataset, ...]
    group_columns: tuple[str, ...]
    description: str
    warnings: tuple[str, ...]


def divide(given: DatasetDict, split: SplitOptions) -> Division:
    """Makes the three splits.

    Args:
        given: What the files give: train, perhaps validation and test.
        split: How to divide what they leave open.

    Raises:
        DataError: There are too few rows or groups, a column or a group isn't there, or a split
            file doesn't fit the data.
    """
    return _Divider(given, split).divide()


def key_columns(rows: Dataset) -> tuple[str, ...]:
    """Columns of group keys."""
    return tuple(name for name in rows.column_names if name not in _OWN_COLUMNS)


def read_labels(rows: Dataset) -> np.ndarray:
    """Label ids, int64 `[N]`."""
    labels: np.ndarray = RowReader(rows, ["label"]).read(np.arange(len(rows)))["label"]
    return labels


def name_groups(rows: Dataset, columns: tuple[str, ...], most: int = _NAMED_GROUPS) -> str:
    """The groups of some rows by the first of some columns: `theo, yweweler, …`."""
    groups = sorted(distinct_values(rows, columns[0]))
    return ", ".join(groups[:most]) + (", …" if len(groups) > most else "")


class _Divider:
    """Moves rows from split to split, and notes in words what it did."""

    def __init__(self, given: DatasetDict, split: SplitOptions) -> None:
        self.split = split
        is_pooled = split.pool_given or split.file is not None
        self.splits = {"train": _pool(given)} if is_pooled else dict(given)
        self.columns = _choose_group_columns(given["train"], split)
        self.unused: list[Dataset] = []
        self.phrases: list[str] = []
        self.warnings: list[str] = []

    def divide(self) -> Division:
        if self.split.file is not None:
            self._follow_file(self.split.file)
        elif self.split.num_folds or self.split.left_out:
            self._choose_test()
        else:
            self._complete("test", self.split.test_fraction)
        self._complete("validation", self.split.validation_fraction)
        return Division(
            {name: self.splits[name] for name in SPLITS},
            tuple(self.unused),
            self.columns,
            "; ".join(self.phrases),
            tuple(self.warnings),
        )

    def _complete(self, name: str, fraction: float) -> None:
        """Holds a split out, if it isn't there."""
        if name in self.splits:
            if name == "validation" and self.split.file is None:
                self.phrases.append("validation as given by the data")
            return
        train, keys = self.splits["train"], self._keys()
        labels, seed = read_labels(train), self.split.seed
        if self.columns:
            groups = connect_groups(keys)
            self._check_group_count(groups)
            kept, held = hold_out_groups(groups, labels, fraction, seed)
        else:
            self._check_class_sizes(labels)
            kept, held = _hold_out_single(labels, keys, fraction, seed)
        self._move(name, kept, held)
        self.phrases.append(f"{name} is {self._describe(name)}")

    def _keys(self) -> list[list[str]]:
        """What holds training rows together; files with the same content stay so in any case."""
        train = self.splits["train"]
        keys = [column_values(train, column) for column in self.columns]
        if "measured" in train.column_names:
            keys.append(column_values(train, "measured", "digest"))
        return keys

    def _move(self, name: str, kept: np.ndarray, held: np.ndarray) -> None:
        train = self.splits["train"]
        self.splits["train"], self.splits[name] = select_rows(train, kept), select_rows(train, held)

    def _describe(self, name: str) -> str:
        rows = self.splits[name]
        if not self.columns:
            return f"{len(rows):,} single rows, classes in proportion"
        named = name_groups(rows, self.columns)
        return f"whole groups by {' and '.join(self.columns)} ({named})"

    def _choose_test(self) -> None:
        """The fold, or the rows that are to be left out; a test split of the data's own is not."""
        given = self.splits.pop("test", None)
        if given is not None:
            self.unused.append(given)
            self.warnings.append(
                f"the data's own test split ({len(given):,} rows) is left aside, since data.split "
                "chooses another; data.split.pool_given: true joins it to the rows to choose from"
            )
        if self.split.left_out is not None:
            is_held = self._find_left_out(*self.split.left_out)
        else:
            is_held = self._deal() == self.split.fold - 1
        self._move("test", np.flatnonzero(~is_held), np.flatnonzero(is_held))
        if self.split.left_out is not None:
            column, values = self.split.left_out
            self.phrases.append(f"test is {column} {', '.join(values)}")
        else:
            place = f"fold {self.split.fold} of {self.split.num_folds}"
            self.phrases.append(f"test is {place}, {self._describe('test')}")

    def _find_left_out(self, column: str, values: tuple[str, ...]) -> np.ndarray:
        """Whether each training row is to be left out."""
        train = self.splits["train"]
        there = distinct_values(train, column)
        unknown = [value for value in values if value not in there]
        if unknown:
            raise DataError(
                f"data.split.leave_out: no training row has {column} {unknown[0]!r}. "
                f"{nearest(unknown[0], sorted(there))}"
            )
        if there == set(values):
            raise DataError(
                f"data.split.leave_out: every training row has {column} {' or '.join(values)}, so "
                "none is left to train on. Name fewer of them."
            )
        return np.isin(np.asarray(column_values(train, column), dtype=object), list(values))

    def _deal(self) -> np.ndarray:
        """The fold of each training row, from 0 on."""
        num_folds, seed = self.split.num_folds or 2, self.split.seed
        labels, keys = read_labels(self.splits["train"]), self._keys()
        if self.columns:
            return deal_groups(connect_groups(keys), labels, num_folds, seed)
        if not keys:
            return deal_rows(labels, num_folds, seed)
        _, first, content = np.unique(keys[0], return_index=True, return_inverse=True)
        folds: np.ndarray = deal_rows(labels[first], num_folds, seed)[content]
        return folds

    def _follow_file(self, path: str) -> None:
        pooled = self.splits.pop("train")
        for name, rows in follow_split(path, pooled).items():
            if name == "unused":
                self.unused.append(select_rows(pooled, rows))
            else:
                self.splits[name] = select_rows(pooled, rows)
        named = " and ".join(name for name in SPLITS[1:] if name in self.splits)
        self.phrases.append(f"{named} as in {path}")

    def _count_wanted(self) -> int:
        """How many splits are still to be made of the training rows, themselves among them."""
        return 1 + len(SPLITS) - len(self.splits)

    def _check_class_sizes(self, labels: np.ndarray) -> None:
        needed = self._count_wanted()
        names = self.splits["train"].features["label"].names
        small = [
            f"{name} has {count}"
            for name, count in zip(names, np.bincount(labels), strict=False)
            if 0 < count < needed
        ]
        if small:
            raise DataError(
                f"data.split: each class needs at least {needed} rows, one for each split that is "
                f"to be made of them, but {', '.join(small[:5])}. Add rows, leave the class out, "
                "or bring validation and test splits of your own."
            )

    def _check_group_count(self, groups: np.ndarray) -> None:
        count, needed = len(np.unique(groups)), self._count_wanted()
        if count < needed:
            raise DataError(
                f"data.split: by {' and '.join(self.columns)} all training rows belong to {count} "
                f"group{'s' * (count > 1)}, and {needed} splits are to be made of whole groups. "
                "Add data, name the columns that matter in data.split.group_by, or split rows with "
                "data.split.group_by: none."
            )


def _pool(given: DatasetDict) -> Dataset:
    """The rows of all splits in one."""
    parts = [given[name] for name in SPLITS if name in given]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _choose_group_columns(train: Dataset, split: SplitOptions) -> tuple[str, ...]:
    own = key_columns(train)
    unknown = [name for name in split.named_columns if name not in own]
    if unknown:
        key = "leave_out" if unknown[0] in (split.leave_out or {}) else "group_by"
        there = ", ".join(own) or (
            "no group columns; folders of files take them from their names (data.group_pattern) or "
            "a table (data.csv)"
        )
        raise DataError(
            f"data.split.{key}: there is no column {', '.join(unknown)}. The data set has {there}."
        )
    if split.group_by == "none":
        return ()
    if split.group_by == "auto":
        return own if split.leave_out is None else split.named_columns
    return split.group_by


def _hold_out_single(
    labels: np.ndarray, contents: list[list[str]], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `hold_out_rows`, but rows of equal content (one list of keys, or none) go together."""
    if not contents:
        return hold_out_rows(labels, fraction, seed)
    _, first, content = np.unique(contents[0], return_index=True, return_inverse=True)
    _, held = hold_out_rows(labels[first], fraction, seed)
    is_held = np.isin(content, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)
