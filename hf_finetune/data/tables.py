"""Builds plain `datasets.Dataset`s from arrays, and reads their rows back without copying tables.

The shared ground of every image data set: what `load` returns is made here, and batches,
statistics and fingerprints read it through `RowReader`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets.table import InMemoryTable


def build_image_dataset(
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    label_names: Sequence[str],
    columns: Mapping[str, Sequence[Sequence[str]]],
) -> Dataset:
    """Puts parts (one a file) together; each part is one chunk of the table.

    Args:
        images: uint8 or float32 `[rows, height, width]` or `[rows, height, width, channel]`.
        labels: int64 `[rows]`, each in 0 … classes - 1.
        label_names: Class names in the order of the label ids.
        columns: Text columns (`id`, group keys), a list of rows for each part.
    """
    sides = images[0].shape[1:]
    feature: Any = Value(images[0].dtype.name)
    for side in reversed(sides):
        feature = List(feature, length=side)
    features = Features(
        {
            **{name: Value("string") for name in columns},
            "image": feature,
            "label": ClassLabel(names=list(label_names)),
        }
    )
    chunks = {
        name: [pa.array(part, pa.string()) for part in parts] for name, parts in columns.items()
    }
    chunks["image"] = [_fixed_lists(part) for part in images]
    chunks["label"] = [pa.array(part, pa.int64()) for part in labels]
    table = pa.table({name: pa.chunked_array(parts) for name, parts in chunks.items()})
    return Dataset(InMemoryTable(table.cast(features.arrow_schema)))


def _fixed_lists(array: np.ndarray) -> pa.Array:
    """An Arrow array of nested fixed-size lists over the very bytes of `array`."""
    result = pa.array(np.ascontiguousarray(array).reshape(-1))
    for side in reversed(array.shape[1:]):
        result = pa.FixedSizeListArray.from_arrays(result, side)
    return result


def column_values(dataset: Dataset, name: str) -> list[Any]:
    """One column as Python values, row by row; the data set's other columns are left untouched."""
    column = dataset.data.table.column(name)
    if dataset._indices is not None:
        column = column.take(dataset._indices.column(0))
    values: list[Any] = column.to_pylist()
    return values


class RowReader:
    """Reads rows of some columns as NumPy arrays, through zero-copy views of each Arrow chunk.

    Honours what `select`, `shuffle` and `train_test_split` left in the data set's indices. Columns
    may be numbers or fixed-size lists of numbers.

    Args:
        dataset: A plain Dataset; its table stays where it is, in memory or mapped from disk.
        columns: Names of the columns to read.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self.length = len(dataset)
        table = dataset.data.table
        self._views = {
            name: [_view(chunk) for chunk in table.column(name).chunks] for name in columns
        }
        lengths = [len(chunk) for chunk in table.column(columns[0]).chunks]
        self._starts = np.cumsum([0, *lengths])
        self._rows = (
            None
            if dataset._indices is None
            else dataset._indices.column(0).to_numpy().astype(np.int64)
        )

    def __len__(self) -> int:
        return self.length

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Rows in the order asked for.

        Args:
            indices: int64 `[B]`, each in 0 … length - 1.

        Returns:
            For each column an array `[B, …]` of the column's own type.
        """
        rows = indices if self._rows is None else self._rows[indices]
        if len(self._starts) == 2:
            return {name: views[0][rows] for name, views in self._views.items()}
        chunk_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        result = {
            name: np.empty((len(rows), *views[0].shape[1:]), views[0].dtype)
            for name, views in self._views.items()
        }
        for chunk in np.unique(chunk_of_row):
            here = chunk_of_row == chunk
            within = rows[here] - self._starts[chunk]
            for name, views in self._views.items():
                result[name][here] = views[chunk][within]
        return result


def _view(chunk: pa.Array) -> np.ndarray:
    """A NumPy view `[rows, …]` of one chunk's buffer."""
    shape = [len(chunk)]
    while pa.types.is_fixed_size_list(chunk.type):
        shape.append(chunk.type.list_size)
        chunk = chunk.flatten()
    view: np.ndarray = chunk.to_numpy(zero_copy_only=True).reshape(shape)
    return view
