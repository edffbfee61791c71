"""Reads data sets in MNIST's idx format, gzipped or not; shared by mnist and fashion_mnist.

Source: the format as published with MNIST (Y. LeCun): two zero bytes, a byte for the type (8 is
uint8), a byte for the number of axes, then each axis as a big-endian 32-bit number, then the data.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, cast

import numpy as np
from datasets import DatasetDict

from hf_finetune.data.array_files import check_labels, require_file
from hf_finetune.data.table_cache import LARGE_BYTES, Rows, load_table
from hf_finetune.errors import DataError

_UINT8 = 8
_PREFIXES = {"train": "train", "test": "t10k"}
_PARTS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def load_idx_folder(
    root: str, label_names: Sequence[str], torchvision_name: str, how_to_get: str
) -> DatasetDict:
    """Reads `train-images-idx3-ubyte` and its three like.

    Args:
        root: The folder; the files may be gzipped, may lie in a `raw` folder in it or in a
            `<name>/raw` folder as torchvision lays them, and `.` may stand for `-` before `idx`.
        label_names: Class names in the order of the label ids.
        torchvision_name: That name. Others' folders are passed over: torchvision lays MNIST and
            Fashion-MNIST beside each other, in files of the same names.
        how_to_get: What to tell a user who has no files.

    Returns:
        `train` and `test` with `id` (`train-images/17`), `image` (uint8 `[28][28]`) and `label`.

    Raises:
        DataError: A file is missing, or is not what its name says.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"data.root: there is no folder {root!r}. {how_to_get}")
    paths = _find_files(folder, torchvision_name, how_to_get)
    splits = {}
    for split, prefix in _PREFIXES.items():
        images, labels = (paths[f"{prefix}-{part}"] for part in _PARTS)
        read_blocks = partial(_read_rows, images, labels, f"{prefix}-images", len(label_names))
        num_bytes = math.prod(read_shape(images, axes=3))
        splits[split] = load_table(read_blocks, label_names, (images, labels), num_bytes)
    return DatasetDict(splits)


def _read_rows(image_path: Path, label_path: Path, prefix: str, num_classes: int) -> Iterator[Rows]:
    """Rows of a pair of files, block by block."""
    count, *sides = read_shape(image_path, axes=3)
    labels = check_labels(label_path, read_idx(label_path, axes=1), count, num_classes)
    rows_a_block = max(1, LARGE_BYTES // math.prod(sides))
    for number, images in enumerate(_read_blocks(image_path, (count, *sides), rows_a_block)):
        start = number * rows_a_block
        ids = [f"{prefix}/{row}" for row in range(start, start + len(images))]
        yield Rows(images, labels[start : start + len(images)], {"id": ids})


def _find_files(folder: Path, torchvision_name: str, how_to_get: str) -> dict[str, Path]:
    """The four files by name, all from the first place that has any of them."""
    names = [f"{prefix}-{part}" for prefix in _PREFIXES.values() for part in _PARTS]
    places = (folder, folder / "raw", folder / torchvision_name / "raw")
    found = next(filter(None, (_find_in(place, names) for place in places)), {})
    missing = [name for name in names if name not in found]
    if missing:
        there = sorted(path.name for path in folder.iterdir())
        content = f"it holds {', '.join(there[:3])}, …" if there else "it is empty"
        raise DataError(
            f"data.root: {str(folder)!r} has no {missing[0]}(.gz) ({content}). {how_to_get}"
        )
    return found


def _find_in(place: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files of some names that lie in a folder, as any of the copies that are about call it."""
    found: dict[str, Path] = {}
    for name in names:
        spellings = (name, name.replace("-idx", ".idx"))
        paths = [place / f"{word}{suffix}" for word in spellings for suffix in ("", ".gz")]
        there = next(filter(Path.is_file, paths), None)
        if there is not None:
            found[name] = there
    return found


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array of an idx file.

    Args:
        path: The file; gzipped where it ends in `.gz`.
        axes: How many axes it must have.

    Returns:
        uint8, of the shape that the file says.

    Raises:
        DataError: The file is missing, no idx file, of another type or number of axes, corrupt,
            or of another length than its header says.
    """
    shape = read_shape(path, axes)
    (array,) = _read_blocks(path, shape, shape[0])
    return array


def read_shape(path: Path, axes: int) -> tuple[int, ...]:
    """The shape that an idx file's header promises.

    Raises:
        DataError: As for `read_idx`; the length is not looked at.
    """
    with _open(require_file(path)) as file:
        header = _read(path, file, 4 + 4 * axes)
    expected = bytes([0, 0, _UINT8, axes])
    if header[:4] != expected:
        raise DataError(
            f"{path}: it begins with {header[:4].hex(' ')}, which is no idx file of bytes on "
            f"{axes} axes ({expected.hex(' ')}). Copy the right file."
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path}: it ends within its header. Copy it again.")
    shape = struct.unpack(f">{axes}I", header[4:])
    if 0 in shape:
        raise DataError(f"{path}: it holds no rows.")
    return shape


def _read_blocks(path: Path, shape: tuple[int, ...], rows_a_block: int) -> Iterator[np.ndarray]:
    """The rows of an idx file, so many at a time; uint8 `[rows, …]`."""
    row_bytes = math.prod(shape[1:])
    missing = shape[0] * row_bytes
    with _open(path) as file:
        _read(path, file, 4 + 4 * len(shape))
        while missing:
            wanted = min(missing, rows_a_block * row_bytes)
            content = _read(path, file, wanted)
            missing -= len(content)
            if len(content) < wanted:
                raise _of_another_length(path, shape, -missing)
            yield np.frombuffer(content, np.uint8).reshape(-1, *shape[1:])
        surplus = 0
        while content := _read(path, file, 2**20):
            surplus += len(content)
    if surplus:
        raise _of_another_length(path, shape, surplus)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _read(path: Path, file: IO[bytes], count: int) -> bytearray:
    """So many bytes; fewer at the end. Takes no more memory than the file fills."""
    content = bytearray()
    try:
        while piece := file.read(min(count - len(content), 2**20)):
            content += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is corrupt ({error}). Copy it again.") from error
    return content


def _of_another_length(path: Path, shape: tuple[int, ...], surplus: int) -> DataError:
    promised = math.prod(shape)
    return DataError(
        f"{path}: its header promises {promised:,} bytes, but {promised + surplus:,} follow. "
        "Copy it again."
    )
