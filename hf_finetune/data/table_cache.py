"""Tables too large to hold: written once as an Arrow file, and memory-mapped from then on.

Data sets that read arrays make their splits here; what is small stays in memory. Nothing here
holds more than a block of rows at a time, however many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from datasets import Dataset

from hf_finetune.data.array_files import require_file
from hf_finetune.data.cache_folder import cache_folder
from hf_finetune.data.tables import build_image_dataset, image_features
from hf_finetune.errors import DataError

LARGE_BYTES = 64 * 2**20
_FORMAT = 1  # raise it where the same files are to be read into other rows
_MOST_TEXT = 2**31 - 1  # bytes of one text column, which Arrow counts in 32 bits


@dataclass(frozen=True)
class Rows:
    """Some rows of an image table.

    Attributes:
        images: uint8 0…255 or float32 0…1, `[rows, height, width]`, perhaps `[…, channel]`.
        labels: int64 `[rows]`.
        columns: Text columns (`id`, group keys), one text a row.
    """

    images: np.ndarray
    labels: np.ndarray
    columns: dict[str, list[str]]


def load_table(
    read_blocks: Callable[[], Iterable[Rows]],
    label_names: Sequence[str],
    sources: Sequence[Path],
    num_bytes: int,
) -> Dataset:
    """A split of images, in memory or, where it is large, mapped from the user's cache folder.

    The cached file is written again when a source changes (its path, size or time).

    Args:
        read_blocks: Reads the rows block by block; images of one shape and type, the same
            columns in each. Called only where the rows aren't cached.
        label_names: Class names in the order of the label ids.
        sources: The files that the rows come from.
        num_bytes: About how many bytes the images are.

    Raises:
        DataError: A source is missing or faulty, or the cache folder can't be written to.
    """
    if num_bytes <= LARGE_BYTES:
        blocks = list(read_blocks())
        columns = {
            name: [list(chain.from_iterable(block.columns[name] for block in blocks))]
            for name in blocks[0].columns
        }
        # In one run of memory: a batch's rows are then gathered by a single call.
        images = np.concatenate([block.images for block in blocks])
        labels = np.concatenate([block.labels for block in blocks])
        return build_image_dataset([images], [labels], label_names, columns)
    path = _place(sources, label_names)
    if not path.is_file():
        try:
            _write_table(path, read_blocks(), label_names)
        except OSError as error:
            raise DataError(
                f"{path.parent}: can't keep the {num_bytes / 1e6:,.0f} MB of images here, which "
                f"are too large to hold in memory ({error.strerror or error}). Make room, or name "
                "another folder with the environment variable HF_FINETUNE_CACHE."
            ) from error
    return Dataset.from_file(str(path))


def _place(sources: Sequence[Path], label_names: Sequence[str]) -> Path:
    """The cached file of some sources in their present state; one folder for all their states."""
    files = [require_file(path).resolve() for path in sources]
    states = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    folder = f"{files[0].parent.name}-{_hash(list(map(str, files)))}"
    return cache_folder() / "tables" / folder / f"{_hash([_FORMAT, *label_names, *states])}.arrow"


def _hash(values: Sequence[object]) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _write_table(path: Path, blocks: Iterable[Rows], label_names: Sequence[str]) -> None:
    """Writes all rows as one record batch: a single run of memory, however it was read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix="unfinished-") as folder:
        columns = _Columns(Path(folder))
        for block in blocks:
            columns.append(block)
        batch = columns.as_batch(label_names)
        unfinished = Path(folder) / "table.arrow"
        with pa.OSFile(str(unfinished), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as out:
            out.write_batch(batch)
        for other in path.parent.glob("*.arrow"):  # of an earlier state of the sources
            if other.name != path.name:  # that one another process may have written just now
                other.unlink(missing_ok=True)
        unfinished.replace(path)


class _Columns:
    """The columns of a growing table, each a file of plain values on disk.

    Arrow writes a record batch only once its size is known: until then the rows lie here.

    Args:
        folder: Where the files go.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._text_bytes: dict[str, int] = {}
        self._num_rows = 0
        self._image = np.empty(0)

    def append(self, rows: Rows) -> None:
        """Adds rows to every column."""
        if self._num_rows == 0:
            self._image = rows.images[:0]
        self._num_rows += len(rows.labels)
        self._write("image", rows.images)
        self._write("label", rows.labels.astype(np.int64, copy=False))
        for name, texts in rows.columns.items():
            self._append_texts(name, texts)

    def _append_texts(self, name: str, texts: list[str]) -> None:
        """Texts as Arrow keeps them: all their bytes, and where each one ends."""
        encoded = [text.encode() for text in texts]
        starts = [] if name in self._text_bytes else [0]
        before = self._text_bytes.get(name, 0)
        ends = before + np.cumsum([*starts, *map(len, encoded)])
        if ends[-1] > _MOST_TEXT:
            raise DataError(f"data.root: the column {name} holds more than 2 GB. Shorten it.")
        self._text_bytes[name] = int(ends[-1])
        self._write(f"{name}-ends", ends.astype(np.int32))
        self._write(f"{name}-bytes", np.frombuffer(b"".join(encoded), np.uint8))

    def _write(self, name: str, values: np.ndarray) -> None:
        with (self._folder / name).open("ab") as file:
            file.write(np.ascontiguousarray(values).data)

    def as_batch(self, label_names: Sequence[str]) -> pa.RecordBatch:
        """All rows, mapped from the files."""
        schema = image_features(self._image, self._text_bytes, label_names).arrow_schema
        columns = [
            pa.StringArray.from_buffers(
                self._num_rows, self._map(f"{name}-ends"), self._map(f"{name}-bytes")
            )
            for name in self._text_bytes
        ]
        pixels = pa.Array.from_buffers(
            pa.from_numpy_dtype(self._image.dtype),
            self._num_rows * int(np.prod(self._image.shape[1:])),
            [None, self._map("image")],
        )
        columns.append(_nest(pixels, schema.field("image").type))
        labels = [None, self._map("label")]
        columns.append(pa.Array.from_buffers(pa.int64(), self._num_rows, labels))
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _map(self, name: str) -> pa.Buffer:
        with pa.memory_map(str(self._folder / name)) as file:
            return file.read_buffer()


def _nest(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Flat values as nested fixed-size lists of a type."""
    if not pa.types.is_fixed_size_list(kind):
        return values
    return pa.FixedSizeListArray.from_arrays(_nest(values, kind.value_type), type=kind)
