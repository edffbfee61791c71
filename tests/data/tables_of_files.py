"""Data sets as people put them on the Hub: parquet files of images or clips; for tests of hub."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from pictures import draw
from PIL import Image

from hf_finetune.data import LoadedData, image_files, load_data
from hf_finetune.data.hub import Options
from hf_finetune.data.tables import RowReader, column_values

NAMES = ("cat", "dog", "owl")


def png(pixels: np.ndarray) -> dict[str, Any]:
    """A cell of a column of images."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": "picture.png"}


def flac(seed: int) -> dict[str, Any]:
    """A cell of a column of clips, 8 kHz, of a length of its own."""
    file = io.BytesIO()
    samples = np.random.default_rng(seed).normal(0, 0.1, 800 + 10 * seed)
    soundfile.write(file, samples, 8000, format="FLAC")
    return {"bytes": file.getvalue(), "path": f"{seed}.flac"}


def image_columns(rows: int, start: int = 0) -> dict[str, list[Any]]:
    """Images of three classes in turn, and the person that each belongs to (five rows each)."""
    numbers = range(start, start + rows)
    return {
        "image": [png(draw(number % 3, number)) for number in numbers],
        "label": [number % 3 for number in numbers],
        "person": [f"p{number // 5}" for number in numbers],
    }


IMAGES = {
    "image": datasets.Image(),
    "label": datasets.ClassLabel(names=list(NAMES)),
    "person": datasets.Value("string"),
}


def write_set(
    root: Path,
    splits: Mapping[str, Mapping[str, Sequence[Any]]],
    types: Mapping[str, Any],
    group_rows: int = 7,
) -> Path:
    """Writes a data set in the layout of the Hub; the rows of each file lie in several groups."""
    schema = datasets.Features(types).arrow_schema
    for name, columns in splits.items():
        path = root / "data" / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = pa.Table.from_pydict(dict(columns), schema=schema)
        pq.write_table(table, path, row_group_size=group_rows)
    return root


def load(root: Path, **settings: Any) -> LoadedData:
    """A data set of the kind `hub`, from a folder."""
    return load_data(Options(repo_id=str(root), **settings))


def texts(split: datasets.Dataset, name: str) -> list[str]:
    """A column of text."""
    return column_values(split, name)


def pixels_of(split: datasets.Dataset) -> list[np.ndarray]:
    """Every image as the collator decodes it, in batches of rows out of order."""
    rows = np.arange(len(split))[::-1]
    cells = RowReader(split, ["image"]).read(rows)["image"]
    return image_files.read_images(cells, 1)[::-1]
