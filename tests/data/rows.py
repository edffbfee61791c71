"""Small data sets of the tests: images that tell their row, with any group columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_finetune.data import DataOptions, GivenData, LoadedData
from hf_finetune.data.preparation import prepare
from hf_finetune.data.tables import build_image_dataset, column_values


def make_rows(
    labels: Sequence[int], start: int = 0, num_classes: int = 3, **columns: Sequence[str]
) -> Dataset:
    """Images of noise with ids `0`, `1`, … from a start on; the id draws the noise."""
    ids = [str(start + row) for row in range(len(labels))]
    images = [np.random.default_rng(int(row)).integers(0, 256, (12, 12)) for row in ids]
    return build_image_dataset(
        [np.stack(images).astype(np.uint8)],
        [np.asarray(labels, np.int64)],
        [f"class {number}" for number in range(num_classes)],
        {"id": [ids], **{name: [list(keys)] for name, keys in columns.items()}},
    )


def load(given: dict[str, Dataset] | Dataset, **split: Any) -> LoadedData:
    """The three splits that options make of some rows."""
    splits = given if isinstance(given, dict) else {"train": given}
    return prepare(GivenData(DatasetDict(splits)), DataOptions(name="rows", split=split))


def ids(data: LoadedData) -> dict[str, list[str]]:
    """Ids by split."""
    return {name: column_values(split, "id") for name, split in data.splits.items()}


def every(data: LoadedData) -> list[str]:
    """Ids of all splits."""
    return [row for rows in ids(data).values() for row in rows]


def sides(data: LoadedData, column: str) -> dict[str, set[str]]:
    """Keys of a column by split."""
    return {name: set(column_values(split, column)) for name, split in data.splits.items()}
