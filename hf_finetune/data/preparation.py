"""From the splits that files give to the splits that training takes; shared by every data set."""

from __future__ import annotations

import hashlib

import numpy as np
from datasets import Dataset, DatasetDict

from hf_finetune.data import DataOptions, ImageShape, LoadedData
from hf_finetune.data.splits import (
    connect_groups,
    draw_rows,
    hold_out_groups,
    hold_out_rows,
)
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

_OWN_COLUMNS = {"id", "image", "label"}
_BLOCK_ROWS = 4096


def prepare(given: DatasetDict, options: DataOptions) -> LoadedData:
    """Holds out validation, thins training out, checks the result; see `data.load_data`."""
    group_columns = _choose_group_columns(given["train"], options)
    splits, description = _with_validation(given, options, group_columns)
    if options.max_train_examples is not None:
        rows = draw_rows(_labels(splits["train"]), options.max_train_examples, options.split.seed)
        splits["train"] = splits["train"].select(rows)
    label_names = tuple(splits["train"].features["label"].names)
    counts = np.bincount(_labels(splits["train"]), minlength=len(label_names))
    return LoadedData(
        splits=DatasetDict({name: splits[name] for name in ("train", "validation", "test")}),
        label_names=label_names,
        group_columns=group_columns,
        image_shape=_image_shape(splits["train"]),
        class_counts=tuple(int(count) for count in counts),
        split_description=description,
        fingerprint=_fingerprint(splits),
        warnings=(*_check_classes(splits, label_names), *_check_groups(splits)),
    )


def _choose_group_columns(train: Dataset, options: DataOptions) -> tuple[str, ...]:
    own = tuple(name for name in train.column_names if name not in _OWN_COLUMNS)
    wanted = options.split.group_by
    if wanted == "none":
        return ()
    if wanted == "auto":
        return own
    unknown = [name for name in wanted if name not in own]
    if unknown:
        raise DataError(
            f"data.split.group_by: there is no column {', '.join(unknown)}. "
            f"The data set has {', '.join(own) or 'no group columns'}."
        )
    return wanted


def _with_validation(
    given: DatasetDict, options: DataOptions, group_columns: tuple[str, ...]
) -> tuple[dict[str, Dataset], str]:
    """The three splits, and a phrase on where validation comes from."""
    empty = [name for name, split in given.items() if len(split) == 0]
    if empty:
        raise DataError(f"data.root: the split {empty[0]} has no rows.")
    if "validation" in given:
        return dict(given), "validation as given by the data"
    train, split = given["train"], options.split
    if not group_columns:
        kept, held = hold_out_rows(_labels(train), split.validation_fraction, split.seed)
        description = f"validation is {len(held):,} single rows, classes in proportion"
    else:
        groups = connect_groups([column_values(train, name) for name in group_columns])
        kept, held = hold_out_groups(groups, split.validation_fraction, split.seed)
        held_groups = sorted(set(column_values(train.select(held), group_columns[0])))
        named = ", ".join(held_groups[:3]) + (", …" if len(held_groups) > 3 else "")
        description = f"validation is whole groups by {' and '.join(group_columns)} ({named})"
    splits = {"train": train.select(kept), "validation": train.select(held), "test": given["test"]}
    return splits, description


def _labels(split: Dataset) -> np.ndarray:
    return RowReader(split, ["label"]).read(np.arange(len(split)))["label"]


def _image_shape(split: Dataset) -> ImageShape:
    image = RowReader(split, ["image"]).read(np.zeros(1, np.int64))["image"]
    height, width = image.shape[1:3]
    return ImageShape(height, width, image.shape[3] if image.ndim == 4 else 1)


def _check_classes(splits: dict[str, Dataset], label_names: tuple[str, ...]) -> list[str]:
    """Refuses what can't be trained on; returns what can be survived."""
    missing = {
        name: [label_names[i] for i in range(len(label_names)) if i not in set(_labels(split))]
        for name, split in splits.items()
    }
    if len(label_names) - len(missing["train"]) < 2:
        raise DataError(
            "data.root: the training split has rows of one class only. A classifier needs two."
        )
    if missing["train"]:
        raise DataError(
            f"data.root: the training split has no rows of class {', '.join(missing['train'])}. "
            "Add some, or hold out other rows (data.split.seed)."
        )
    return [
        f"the {name} split has no rows of class {', '.join(labels)}"
        for name, labels in missing.items()
        if labels
    ]


def _check_groups(splits: dict[str, Dataset]) -> list[str]:
    """Group keys that lie on both sides of a split, in words."""
    warnings = []
    columns = [name for name in splits["train"].column_names if name not in _OWN_COLUMNS]
    for column in columns:
        for name in ("validation", "test"):
            sides = [column_values(splits[side], column) for side in ("train", name)]
            shared = set(sides[0]) & set(sides[1])
            if shared:
                warnings.append(
                    f"{name} shares {len(shared)} of its {column} keys with train, so its score "
                    "may flatter the model"
                )
    return warnings


def _fingerprint(splits: dict[str, Dataset]) -> str:
    """SHA-256 over the names, labels and pixels of every row of every split, shortened."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name}:{len(split)}".encode())
        digest.update("\0".join(column_values(split, "id")).encode())
        reader = RowReader(split, ["image", "label"])
        for start in range(0, len(split), _BLOCK_ROWS):
            rows = reader.read(np.arange(start, min(start + _BLOCK_ROWS, len(split))))
            digest.update(rows["image"].tobytes())
            digest.update(rows["label"].tobytes())
    return digest.hexdigest()[:16]


def pixel_statistics(split: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of all pixels by channel, on the scale 0…1.

    Summed in float64.
    """
    reader = RowReader(split, ["image"])
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for start in range(0, len(split), _BLOCK_ROWS):
        images = reader.read(np.arange(start, min(start + _BLOCK_ROWS, len(split))))["image"]
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        pixels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1).astype(np.float64)
        pixels /= scale
        count += len(pixels)
        total = total + pixels.sum(0)
        squares = squares + (pixels**2).sum(0)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
