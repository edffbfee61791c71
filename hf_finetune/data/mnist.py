"""MNIST: handwritten digits in idx files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions

if TYPE_CHECKING:
    import datasets

_HOW_TO_GET = "Download it with: hf-finetune download mnist"


class Options(DataOptions):
    """Options of MNIST."""

    name: Literal["mnist"] = "mnist"
    root: str = "data/mnist"
    """Folder with the four idx files, gzipped or not; torchvision's, with `MNIST/raw`, will do."""


def load(options: Options) -> datasets.DatasetDict:
    """Reads 60,000 training and 10,000 test rows; see `idx_files.load_idx_folder`.

    Raises:
        DataError: A file is missing or is not what its name says.
    """
    from hf_finetune.data.idx_files import load_idx_folder

    return load_idx_folder(options.root, tuple("0123456789"), "MNIST", _HOW_TO_GET)
