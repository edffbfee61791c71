"""Fashion-MNIST: pictures of clothes in idx files.

Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking
Machine Learning Algorithms", 2017 (MIT licence).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions

if TYPE_CHECKING:
    import datasets

LABEL_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_HOW_TO_GET = "Download it with: hf-finetune download fashion_mnist"


class Options(DataOptions):
    """Options of Fashion-MNIST."""

    name: Literal["fashion_mnist"] = "fashion_mnist"
    root: str = "data/fashion_mnist"
    """Folder with the four idx files, gzipped or not; torchvision's, with `FashionMNIST/raw`, will
    do."""


def load(options: Options) -> datasets.DatasetDict:
    """Reads 60,000 training and 10,000 test rows; see `idx_files.load_idx_folder`.

    Raises:
        DataError: A file is missing or is not what its name says.
    """
    from hf_finetune.data.idx_files import load_idx_folder

    return load_idx_folder(options.root, LABEL_NAMES, "FashionMNIST", _HOW_TO_GET)
