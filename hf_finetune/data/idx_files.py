"""Reads data sets in MNIST's idx format, gzipped or not; shared by mnist and fashion_mnist.

Source: the format as published with MNIST (Y. LeCun): two zero bytes, a byte for the type (8 is
uint8), a byte for the number of axes, then each axis as a big-endian 32-bit number, then the data.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import DatasetDict

from hf_finetune.data.array_files import check_labels, require_file
from hf_finetune.data.tables import build_image_dataset
from hf_finetune.errors import DataError

_UINT8 = 8
_PREFIXES = {"train": "train", "test": "t10k"}


def load_idx_folder(root: str, label_names: Sequence[str], how_to_get: str) -> DatasetDict:
    """Reads `train-images-idx3-ubyte` and its three like.

    Args:
        root: The folder; the files may be gzipped, may lie in a `raw` folder in it or in a
            `<name>/raw` folder as torchvision lays them, and `.` may stand for `-` before `idx`.
        label_names: Class names in the order of the label ids.
        how_to_get: What to tell a user who has no files.

    Returns:
        `train` and `test` with `id` (`train-images/17`), `image` (uint8 `[28][28]`) and `label`.

    Raises:
        DataError: A file is missing, or is not what its name says.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"data.root: there is no folder {root!r}. {how_to_get}")
    splits = {}
    for split, prefix in _PREFIXES.items():
        paths = [
            _find(folder, f"{prefix}-{part}", how_to_get)
            for part in ("images-idx3-ubyte", "labels-idx1-ubyte")
        ]
        images, labels = read_idx(paths[0], axes=3), read_idx(paths[1], axes=1)
        labels = check_labels(paths[1], labels, len(images), len(label_names))
        ids = [f"{prefix}-images/{row}" for row in range(len(labels))]
        splits[split] = build_image_dataset([images], [labels], label_names, {"id": [ids]})
    return DatasetDict(splits)


def _find(folder: Path, name: str, how_to_get: str) -> Path:
    """The file of a name, as any of the copies that are about call it."""
    names = [name, name.replace("-idx", ".idx")]
    places = [folder, folder / "raw", *sorted(folder.glob("*/raw"))]
    for place in places:
        for candidate in names:
            for suffix in ("", ".gz"):
                if (place / f"{candidate}{suffix}").is_file():
                    return place / f"{candidate}{suffix}"
    there = sorted(path.name for path in folder.iterdir())
    content = f"it holds {', '.join(there[:3])}, …" if there else "it is empty"
    raise DataError(f"data.root: {str(folder)!r} has no {name}(.gz) ({content}). {how_to_get}")


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
    require_file(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is corrupt ({error}). Copy it again.") from error
    expected = bytes([0, 0, _UINT8, axes])
    if content[:4] != expected:
        raise DataError(
            f"{path}: it begins with {content[:4].hex(' ')}, which is no idx file of bytes on "
            f"{axes} axes ({expected.hex(' ')}). Copy the right file."
        )
    header = 4 + 4 * axes
    if len(content) < header:
        raise DataError(f"{path}: it ends within its header. Copy it again.")
    shape = struct.unpack(f">{axes}I", content[4:header])
    count = int(np.prod(shape, dtype=np.int64))
    if len(content) - header != count:
        raise DataError(
            f"{path}: its header promises {count:,} bytes, but {len(content) - header:,} follow. "
            "Copy it again."
        )
    if count == 0:
        raise DataError(f"{path}: it holds no rows.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
