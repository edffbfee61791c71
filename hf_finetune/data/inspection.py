"""Looks at every image of a data set before training: numbers, duplicates, groups, mean images.

Place: the verb `inspect` prints and draws what is found here (`data_report`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from datasets import Dataset

from hf_finetune.data import LoadedData
from hf_finetune.data.duplicates import Duplicate, find_duplicates, hash_image
from hf_finetune.data.image_files import quiet_pillow, read_image
from hf_finetune.data.image_statistics import MeanImages, PixelFacts
from hf_finetune.data.orientation import GroupAngles, compare_groups, find_axes
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

MOST_CLASSES, MOST_GROUPS = 20, 16  # of which mean images are kept
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class Groups:
    """One group column.

    Attributes:
        column: Its name.
        rows: Rows of each group by split, `rows[group][split]`; groups in natural order.
        angles: How the groups' strokes are turned against each other; None where that can't be
            measured, or is no more than chance.
    """

    column: str
    rows: dict[str, dict[str, int]]
    angles: GroupAngles | None


@dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        data: What was looked at.
        class_counts: Rows of each class by split, in the order of the label ids.
        pixels: Numbers of the images by split.
        duplicates: Sets of equal images.
        groups: One for each group column, also where the splits ignore it.
        class_means: Mean training image of the first 20 classes, float64 `[classes, H, W, C]` on
            the scale 0…1, NaN for a class without rows. None where the images differ in size.
        group_means: The same for the first 16 groups of the first group column, from all splits,
            float64 `[groups, classes, H, W, C]`. None also where there are no groups.
    """

    data: LoadedData
    class_counts: dict[str, tuple[int, ...]]
    pixels: dict[str, PixelFacts]
    duplicates: tuple[Duplicate, ...]
    groups: tuple[Groups, ...]
    class_means: np.ndarray | None
    group_means: np.ndarray | None


def inspect_data(data: LoadedData) -> Inspection:
    """Reads every image of every split once.

    Args:
        data: Loaded data.

    Raises:
        DataError: The data has no images, or a file has gone bad since it was loaded.
    """
    if "image" not in data.splits["train"].column_names:
        raise DataError("inspect: looks at images, and this data set has none.")
    look = _Look(data)
    row = 0
    with quiet_pillow():
        for name, split in data.splits.items():
            for images in read_images(split):
                look.add(name, images, row)
                row += len(images)
    return look.conclude()


def read_images(split: Dataset) -> Iterator[np.ndarray]:
    """Every image of a split, in its order, a block at a time.

    Yields:
        uint8 or float32 `[B, H, W, C]`: images that lie together and are equal in shape.
    """
    reader = RowReader(split, ["image"])
    for start in range(0, len(split), _BLOCK_ROWS):
        images = reader.read(np.arange(start, min(start + _BLOCK_ROWS, len(split))))["image"]
        # Files are decoded one by one: photographs may be large, and of any size.
        blocks = (
            (read_image(**file)[None] for file in images) if isinstance(images, list) else [images]
        )
        for block in blocks:
            yield block if block.ndim == 4 else block[..., None]


def describe_leaks(data: LoadedData) -> str:
    """Whether rows that belong together lie on both sides of a split, in words."""
    shared = [warning for warning in data.warnings if "shares" in warning]
    if shared:
        return f"{len(shared)} found, see the warnings"
    columns = " or ".join(data.group_columns)
    return f"none: no {columns} lies in two splits" if columns else "not known: no group keys"


class _Look:
    """Gathers what one pass over the images tells.

    Args:
        data: Loaded data.
    """

    def __init__(self, data: LoadedData) -> None:
        splits = data.splits
        self._data = data
        self._split_of_row = list(chain(*([name] * len(split) for name, split in splits.items())))
        self._labels = np.asarray(self._collect("label"), dtype=np.int64)
        columns = [
            name
            for name, feature in splits["train"].features.items()
            if name != "id" and getattr(feature, "dtype", None) == "string"
        ]
        self._groups: dict[str, tuple[list[str], np.ndarray]] = {
            column: _number_groups(self._collect(column)) for column in columns
        }
        self._pixels = {name: PixelFacts() for name in splits}
        self._classes = min(len(data.label_names), MOST_CLASSES)
        self._class_means = MeanImages(self._classes)
        nothing: tuple[list[str], np.ndarray] = ([], self._labels)
        names, self._shown_groups = next(iter(self._groups.values()), nothing)
        self._group_means = MeanImages(self._classes * min(len(names), MOST_GROUPS))
        self._hashes: list[bytes] = []
        self._axes: list[np.ndarray] = []

    def _collect(self, column: str) -> list[str]:
        return list(chain(*(column_values(split, column) for split in self._data.splits.values())))

    def add(self, split: str, images: np.ndarray, row: int) -> None:
        """Takes images uint8 or float32 `[B, H, W, C]`; the first is that of a row of all rows."""
        self._pixels[split].add(images)
        self._hashes += [hash_image(image) for image in images]
        is_grey = images.shape[3] == 1
        self._axes.append(find_axes(images[..., 0]) if is_grey else np.zeros(len(images)))
        rows = slice(row, row + len(images))
        labels, groups = self._labels[rows], self._shown_groups[rows]
        is_shown = labels < self._classes
        if split == "train":
            self._class_means.add(images, np.where(is_shown, labels, -1))
        cells = groups * self._classes + labels
        self._group_means.add(images, np.where(is_shown & (groups < MOST_GROUPS), cells, -1))

    def conclude(self) -> Inspection:
        """Everything that was found."""
        size = len(self._data.label_names)
        group_means = self._group_means.means()
        if group_means is not None:
            group_means = group_means.reshape(-1, self._classes, *group_means.shape[1:])
        splits = np.asarray(self._split_of_row)
        return Inspection(
            data=self._data,
            class_counts={
                name: tuple(np.bincount(self._labels[splits == name], minlength=size).tolist())
                for name in self._data.splits
            },
            pixels=self._pixels,
            duplicates=find_duplicates(
                self._hashes, self._collect("id"), self._split_of_row, self._labels.tolist()
            ),
            groups=tuple(self._describe_groups(column) for column in self._groups),
            class_means=self._class_means.means(),
            group_means=group_means,
        )

    def _describe_groups(self, column: str) -> Groups:
        names, ids = self._groups[column]
        splits = np.asarray(self._split_of_row)
        counts = {
            split: np.bincount(ids[splits == split], minlength=len(names)).tolist()
            for split in self._data.splits
        }
        rows = {
            name: {split: counts[split][group] for split in counts if counts[split][group]}
            for group, name in enumerate(names)
        }
        angles = compare_groups(np.concatenate(self._axes), self._labels, ids, names)
        exceeds_chance = angles is not None and angles.exceeds_chance
        return Groups(column, rows, angles if exceeds_chance else None)


def _number_groups(keys: list[str]) -> tuple[list[str], np.ndarray]:
    """Names of the groups in natural order (`file_2` before `file_10`), and each row's number."""
    names = sorted(set(keys), key=lambda name: [_natural(part) for part in _DIGITS.split(name)])
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.asarray([numbers[key] for key in keys], dtype=np.int64)


_DIGITS = re.compile(r"(\d+)")


def _natural(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)
