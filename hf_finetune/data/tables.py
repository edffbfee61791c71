"""Builds plain `datasets.Dataset`s from arrays, and reads their rows back without copying tables.

The shared ground of every image data set: what `load` returns is made here, and batches,
statistics and fingerprints read it through `RowReader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, List, Value
from datasets.fingerprint import generate_random_fingerprint
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
    features = image_features(images[0], columns, label_names)
    chunks = {
        name: [pa.array(part, pa.string()) for part in parts] for name, parts in columns.items()
    }
    chunks["image"] = [_fixed_lists(part) for part in images]
    chunks["label"] = [pa.array(part, pa.int64()) for part in labels]
    table = pa.table({name: pa.chunked_array(parts) for name, parts in chunks.items()})
    table = InMemoryTable(table.cast(features.arrow_schema))
    # Without one, datasets copies every pixel to hash it; `LoadedData` has a hash of its own.
    return Dataset(table, fingerprint=generate_random_fingerprint())


def image_features(
    images: np.ndarray, columns: Iterable[str], label_names: Sequence[str]
) -> Features:
    """Features of a table of images like these, with some text columns before them."""
    feature: Any = Value(images.dtype.name)
    for side in reversed(images.shape[1:]):
        feature = List(feature, length=side)
    texts = {name: Value("string") for name in columns}
    return Features({**texts, "image": feature, "label": ClassLabel(names=list(label_names))})


def _fixed_lists(array: np.ndarray) -> pa.Array:
    """An Arrow array of nested fixed-size lists over the very bytes of `array`."""
    result = pa.array(np.ascontiguousarray(array).reshape(-1))
    for side in reversed(array.shape[1:]):
        result = pa.FixedSizeListArray.from_arrays(result, side)
    return result


def build_file_dataset(
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    measured: Sequence[Mapping[str, Any]],
    labels: Sequence[int],
    label_names: Sequence[str],
    columns: Mapping[str, Sequence[str]],
) -> Dataset:
    """A data set whose examples are files that stay undecoded.

    Args:
        files: One column by its name (`image`): what is needed to decode each row's file.
        measured: What is known of each row's file.
        labels: Each in 0 … classes - 1.
        label_names: Class names in the order of the label ids.
        columns: Text columns (`id`, group keys).
    """
    arrays = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    arrays |= {name: pa.array(column) for name, column in files.items()}
    table = pa.table(
        {**arrays, "measured": pa.array(measured), "label": pa.array(labels, pa.int64())}
    )
    features = Features.from_arrow_schema(table.schema)
    features["label"] = ClassLabel(names=list(label_names))
    return Dataset(InMemoryTable(table.cast(features.arrow_schema)))


def column_values(
    dataset: Dataset, name: str, field: str | None = None, rows: slice = slice(None)
) -> list[Any]:
    """One column as Python values, row by row; the data set's other columns are left untouched.

    Args:
        dataset: A plain Dataset.
        name: The column.
        field: Of a column of structs: the field to read.
        rows: A run of rows; by default all.
    """
    values: list[Any] = _column(dataset, name, rows, field).to_pylist()
    return values


def select_rows(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """As `Dataset.select`, which makes a Python object of every row number.

    Args:
        dataset: A plain Dataset.
        rows: int64 `[N]`, each in 0 … length - 1.
    """
    indices = pa.array(rows.astype(np.uint64))
    if dataset._indices is not None:
        indices = dataset._indices.column(0).take(indices)
    table = InMemoryTable(pa.table({"indices": indices}))
    fingerprint = generate_random_fingerprint()
    return Dataset(dataset.data, dataset.info, dataset.split, table, fingerprint)


def distinct_values(dataset: Dataset, name: str) -> set[Any]:
    """The values that occur in a column; much less to hold than a value for each row."""
    return set(_column(dataset, name, slice(None)).unique().to_pylist())


def _column(dataset: Dataset, name: str, rows: slice, field: str | None = None) -> pa.ChunkedArray:
    column = dataset.data.table.column(name)
    if field is not None:  # before rows are taken: the other fields may hold whole files
        column = pc.struct_field(column, field)
    start, stop, _ = rows.indices(len(dataset))
    if dataset._indices is None:
        return column.slice(start, stop - start)
    return column.take(dataset._indices.column(0).slice(start, stop - start))


class RowReader:
    """Reads rows of some columns as NumPy arrays, through zero-copy views of each Arrow chunk.

    Honours what `select`, `shuffle` and `train_test_split` left in the data set's indices. Columns
    may be numbers, fixed-size lists of numbers, or structs, whose rows come as a list of dicts.

    Args:
        dataset: A plain Dataset; its table stays where it is, in memory or mapped from disk.
        columns: Names of the columns to read.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        self._made_of = (dataset, columns)
        self.length = len(dataset)
        table = dataset.data.table
        structs = [name for name in columns if pa.types.is_struct(table.schema.field(name).type)]
        self._structs = {name: table.column(name) for name in structs}
        self._views = {
            name: [_view(chunk) for chunk in table.column(name).chunks]
            for name in columns
            if name not in structs
        }
        lengths = [len(chunk) for chunk in table.column(columns[0]).chunks]
        self._starts = np.cumsum([0, *lengths])
        self._rows = (
            None
            if dataset._indices is None
            else dataset._indices.column(0).to_numpy().astype(np.int64)
        )

    def __reduce__(self) -> tuple[type[RowReader], tuple[Dataset, Sequence[str]]]:
        # Sent to a worker process: it maps the file itself, where the views would be copied.
        return RowReader, self._made_of

    def __len__(self) -> int:
        return self.length

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """Rows in the order asked for.

        Args:
            indices: int64 `[B]`, each in 0 … length - 1.

        Returns:
            For each column an array `[B, …]` of the column's own type; for structs a list of dicts.
        """
        rows = indices if self._rows is None else self._rows[indices]
        structs = {name: self._read_structs(column, rows) for name, column in self._structs.items()}
        return {**structs, **self._read_views(rows)} if structs else self._read_views(rows)

    def _read_structs(self, column: pa.ChunkedArray, rows: np.ndarray) -> list[Any]:
        if len(self._starts) == 2:
            return list(column.take(rows).to_pylist())
        # Of several chunks, Arrow would first make one: a copy of every file for each batch.
        chunks = np.searchsorted(self._starts, rows, side="right") - 1
        places = zip(chunks.tolist(), (rows - self._starts[chunks]).tolist(), strict=True)
        return [column.chunk(chunk)[row].as_py() for chunk, row in places]

    def _read_views(self, rows: np.ndarray) -> dict[str, np.ndarray]:
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
