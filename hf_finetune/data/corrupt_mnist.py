"""The course's corrupted MNIST (DTU MLOps): rotated digits, one angle and so one group a file.

Layouts: `train_images_<i>.pt` with `train_target_<i>.pt` (any number) and `test_images.pt` with
`test_target.pt`; or the older `train_<i>.npz` (keys `images`, `labels`) and `test.npz`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hf_finetune.data import DataOptions
from hf_finetune.errors import DataError

if TYPE_CHECKING:
    import datasets
    import numpy as np

LABEL_NAMES = tuple("0123456789")
_TRAIN_FILE = {
    "pt": re.compile(r"^train_images_(0|[1-9]\d*)\.pt$"),
    "npz": re.compile(r"^train_(0|[1-9]\d*)\.npz$"),
}
_HOW_TO_GET = (
    "Download it with: hf-finetune download corrupt_mnist, or use the sample that comes with the "
    "toolkit: data.root=samples/corruptmnist"
)


class Options(DataOptions):
    """Options of the corrupted MNIST."""

    name: Literal["corrupt_mnist"] = "corrupt_mnist"
    root: str = "data/corruptmnist"
    """Folder with train_images_0.pt and its like, or train_0.npz and its like."""
    layout: Literal["auto", "pt", "npz"] = "auto"
    """Which of the two layouts to read where a folder has both."""


def load(options: Options) -> datasets.DatasetDict:
    """Reads every training file and the test file.

    Returns:
        `train` and `test` with the columns `id` (`train_images_0.pt/17`), `file` (the group),
        `image` (uint8 `[28][28]`, or float32 where the values are not whole levels) and `label`.

    Raises:
        DataError: A file is missing, unreadable, not what its name says, or inconsistent.
    """
    from datasets import DatasetDict

    from hf_finetune.data.tables import build_image_dataset

    root = Path(options.root)
    layout = _find_layout(root, options.layout)
    parts = {
        split: [_read_part(root, name, layout) for name in names]
        for split, names in _list_parts(root, layout).items()
    }
    _make_alike([part for members in parts.values() for part in members])
    return DatasetDict(
        {
            split: build_image_dataset(
                [part.images for part in members],
                [part.labels for part in members],
                LABEL_NAMES,
                {
                    "id": [[f"{m.name}/{row}" for row in range(len(m.labels))] for m in members],
                    "file": [[m.name] * len(m.labels) for m in members],
                },
            )
            for split, members in parts.items()
        }
    )


@dataclass
class _Part:
    """One file of images with its labels: uint8 or float32 `[N, H, W]`, int64 `[N]`."""

    name: str
    images: np.ndarray
    labels: np.ndarray


def _find_layout(root: Path, wanted: str) -> str:
    """`pt` or `npz`, by what the folder holds."""
    if not root.is_dir():
        raise DataError(f"data.root: there is no folder {str(root)!r}. {_HOW_TO_GET}")
    names = [path.name for path in root.iterdir()]
    found = [layout for layout, pattern in _TRAIN_FILE.items() if any(map(pattern.match, names))]
    if wanted != "auto" and wanted not in found:
        raise DataError(f"data.layout: {str(root)!r} holds no {wanted} training files.")
    if wanted != "auto":
        return wanted
    if len(found) == 2:
        raise DataError(
            f"data.root: {str(root)!r} holds both .pt and .npz training files. "
            "Say which to read with data.layout: pt or data.layout: npz"
        )
    if found:
        return found[0]
    if any(name.endswith(".npy") for name in names):
        from hf_finetune.data.array_files import NPY_ADVICE

        raise DataError(
            f"data.root: {str(root)!r} holds .npy files of pickled objects. {NPY_ADVICE}"
        )
    content = "it is empty" if not names else f"it holds {', '.join(sorted(names)[:3])}, …"
    raise DataError(
        f"data.root: {str(root)!r} has no train_images_0.pt and no train_0.npz ({content}). "
        f"{_HOW_TO_GET}"
    )


def _list_parts(root: Path, layout: str) -> dict[str, list[str]]:
    """File names by split, training files in the order of their numbers."""
    matches = [_TRAIN_FILE[layout].match(path.name) for path in root.iterdir()]
    numbers = sorted(int(match[1]) for match in matches if match)
    if layout == "pt":
        return {"train": [f"train_images_{i}.pt" for i in numbers], "test": ["test_images.pt"]}
    return {"train": [f"train_{i}.npz" for i in numbers], "test": ["test.npz"]}


def _read_part(root: Path, name: str, layout: str) -> _Part:
    from hf_finetune.data.array_files import check_images, check_labels, read_npz, read_pt

    path = root / name
    if layout == "pt":
        label_path = root / name.replace("images", "target")
        images, labels = read_pt(path), read_pt(label_path)
    else:
        label_path = path
        images, labels = read_npz(path, ("images", "labels")).values()
    images = check_images(path, images)
    return _Part(name, images, check_labels(label_path, labels, len(images), len(LABEL_NAMES)))


def _make_alike(parts: list[_Part]) -> None:
    """Refuses unequal image sizes; where one file needs floats, all become floats."""
    sizes = {part.images.shape[1:]: part.name for part in parts}
    if len(sizes) > 1:
        listed = ", ".join(f"{name}: {h}x{w}" for (h, w), name in sizes.items())
        raise DataError(f"data.root: the images of the files differ in size ({listed}).")
    if len({part.images.dtype for part in parts}) > 1:
        for part in parts:
            if part.images.dtype == "uint8":
                part.images = part.images.astype("float32") / 255
