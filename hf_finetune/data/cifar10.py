"""CIFAR-10: small colour photographs, in the binary version's files.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Each record
is a label byte and 3,072 bytes: a red, a green and a blue plane of 32 rows of 32 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions
from hf_finetune.errors import DataError

if TYPE_CHECKING:
    import datasets

    from hf_finetune.data.table_cache import Rows

_FOLDER = "cifar-10-batches-bin"
_PICKLED = "cifar-10-batches-py"
_NUM_CLASSES = 10
_FILES = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_SIDE, _CHANNELS = 32, 3
_RECORD = 1 + _CHANNELS * _SIDE * _SIDE
_HOW_TO_GET = "Download it with: hf-finetune download cifar10"


class Options(DataOptions):
    """Options of CIFAR-10."""

    name: Literal["cifar10"] = "cifar10"
    root: str = "data/cifar10"
    """The folder cifar-10-batches-bin, or the folder that it lies in."""


def load(options: Options) -> datasets.DatasetDict:
    """Reads the five training files and the test file.

    Returns:
        `train` and `test` with `id` (`data_batch_1.bin/17`), `image` (uint8 `[32][32][3]`) and
        `label`.

    Raises:
        DataError: A file is missing or is not what its name says.
    """
    from datasets import DatasetDict

    from hf_finetune.data.table_cache import load_table

    root = Path(options.root)
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {options.root!r}. {_HOW_TO_GET}")
    folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
    names = _read_names(folder)
    splits = {}
    for split, files in _FILES.items():
        paths = [folder / file for file in files]
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise DataError(f"data.root: {missing[0]} is missing. {_HOW_TO_GET}")
        num_bytes = sum(path.stat().st_size for path in paths)
        read_blocks = partial(_read_files, paths, len(names))
        splits[split] = load_table(read_blocks, names, paths, num_bytes)
    return DatasetDict(splits)


def _read_names(folder: Path) -> list[str]:
    """The ten class names.

    Raises:
        DataError: Their file is missing, or holds something else.
    """
    path = folder / "batches.meta.txt"
    if not path.is_file():
        pickled = folder.name == _PICKLED or (folder / _PICKLED).is_dir()
        why = f"; {_PICKLED} is the pickled version, and unpickling can run code" if pickled else ""
        raise DataError(
            f"data.root: {str(folder)!r} has no {path.name}, the binary version's{why}. "
            f"{_HOW_TO_GET}"
        )
    names = path.read_text(encoding="utf-8", errors="replace").split()
    if len(names) != _NUM_CLASSES:
        raise DataError(
            f"{path}: it holds {len(names)} class names, expected {_NUM_CLASSES}. Copy it again."
        )
    return names


def _read_files(paths: list[Path], num_classes: int) -> Iterator[Rows]:
    for path in paths:
        yield _read_rows(path, num_classes)


def _read_rows(path: Path, num_classes: int) -> Rows:
    """The rows of one file; images uint8 `[N, 32, 32, 3]`."""
    import numpy as np

    from hf_finetune.data.array_files import check_labels, require_file
    from hf_finetune.data.table_cache import Rows

    content = np.fromfile(require_file(path), np.uint8)
    if len(content) % _RECORD:
        raise DataError(
            f"{path}: {len(content):,} bytes are no whole number of records of {_RECORD:,} bytes; "
            "it is truncated or no CIFAR-10 file of the binary version. Copy it again."
        )
    records = content.reshape(-1, _RECORD)
    labels = check_labels(path, records[:, 0], len(records), num_classes)
    planes = records[:, 1:].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    ids = [f"{path.name}/{row}" for row in range(len(labels))]
    return Rows(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, {"id": ids})
