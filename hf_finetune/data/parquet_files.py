"""Writes splits as parquet files that hold every image or clip, as the Hugging Face Hub shows them.

`data_publishing` puts them into a folder with a card; `hub` reads them back.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Audio, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

FOLDER = "data"
_FILE_BYTES = 400_000_000  # from here on another file is begun
# Rows of a group: what the Hub's viewer reads at a time. Arrays are small pictures.
_FILE_ROWS, _ARRAY_ROWS = 100, 1000


@dataclass(frozen=True)
class WrittenSplit:
    """One split as it was written.

    Attributes:
        files: Its files, in the order of their rows.
        features: Types of the columns.
        num_examples: Rows.
        num_bytes: Size of the rows in memory.
        download_bytes: Size of the files.
    """

    files: tuple[Path, ...]
    features: Features
    num_examples: int
    num_bytes: int
    download_bytes: int


def write_split(split: Dataset, name: str, folder: Path) -> WrittenSplit:
    """Writes a split as `data/<name>-00000-of-00001.parquet` and its like.

    Files are taken over as they are; arrays become PNG or, where they are floats, TIFF: both give
    the very pixels back.

    Args:
        split: Rows as the data room's door describes them.
        name: Of the split.
        folder: The folder to write to.

    Raises:
        DataError: A file can't be read any more, or an image has no file format that keeps it.
    """
    features = _features_of(split)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    unnumbered: list[Path] = []
    writer, num_bytes = None, 0
    for table in _read_tables(split, features):
        if writer is None or unnumbered[-1].stat().st_size >= _FILE_BYTES:
            if writer is not None:
                writer.close()
            unnumbered.append(folder / FOLDER / f"{name}-{len(unnumbered):05d}.parquet")
            writer = pq.ParquetWriter(unnumbered[-1], features.arrow_schema)
        writer.write_table(table)
        num_bytes += table.nbytes
    if writer is not None:
        writer.close()
    files = []
    for file in unnumbered:
        files.append(file.with_name(f"{file.stem}-of-{len(unnumbered):05d}.parquet"))
        file.rename(files[-1])
    size = sum(file.stat().st_size for file in files)
    return WrittenSplit(tuple(files), features, len(split), num_bytes, size)


def _features_of(split: Dataset) -> Features:
    """Types of the columns that are written: all but what was measured."""
    types: dict[str, Any] = {}
    for name, feature in split.features.items():
        if name == "image":
            types[name] = ImageFeature()
        elif name == "audio":
            types[name] = Audio()
        elif name == "label":
            types[name] = feature
        elif name != "measured":
            types[name] = Value("string")
    return Features(types)


def _read_tables(split: Dataset, features: Features) -> Iterator[pa.Table]:
    """All rows in order, a group at a time."""
    content = "audio" if "audio" in features else "image"
    reader = RowReader(split, [content])
    size = _FILE_ROWS if "measured" in split.column_names else _ARRAY_ROWS
    for start in range(0, len(split), size):
        rows = slice(start, min(start + size, len(split)))
        columns = {
            name: column_values(split, name, rows=rows) for name in features if name != content
        }
        cells = reader.read(np.arange(rows.start, rows.stop))[content]
        columns[content] = [
            _take_over(cell, name) if isinstance(cell, dict) else _encode(cell, name)
            for cell, name in zip(cells, columns["id"], strict=True)
        ]
        yield pa.Table.from_pydict(columns, schema=features.arrow_schema)


def _take_over(cell: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A file's bytes and bare name; where it lay stays here."""
    content = cell.get("bytes") or cell.get("content")
    if content is None:
        try:
            content = Path(cell["path"]).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: it can't be read any more ({error.strerror}).") from error
    return {"bytes": content, "path": PurePosixPath(name).name}


def _encode(pixels: np.ndarray, name: str) -> dict[str, Any]:
    """An image as a file that gives its pixels back, uint8 or float32 `[H, W]` or `[H, W, C]`."""
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
    file = io.BytesIO()
    if pixels.dtype == np.uint8:
        Image.fromarray(pixels).save(file, "PNG")
    elif pixels.ndim == 2:
        Image.fromarray(pixels).save(file, "TIFF")
    else:
        raise DataError(
            f"{name}: it is of floats in colour, which no file format here keeps. Allowed: uint8, "
            "or float32 in grey. Give the images as whole levels (uint8)."
        )
    return {"bytes": file.getvalue(), "path": None}
