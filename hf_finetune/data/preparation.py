"""From the splits that files give to the splits that training takes; shared by every data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from datasets import Dataset, DatasetDict

from hf_finetune.data import DataOptions, GivenData, ImageShape, LoadedData
from hf_finetune.data.splits import (
    connect_groups,
    draw_rows,
    hold_out_groups,
    hold_out_rows,
)
from hf_finetune.data.tables import RowReader, column_values, distinct_values, select_rows
from hf_finetune.errors import DataError

_OWN_COLUMNS = {"id", "image", "label", "measured"}
_SPLITS = ("train", "validation", "test")
_BLOCK_ROWS, _BLOCK_PIXELS = 4096, 4096 * 28 * 28


def prepare(given: GivenData, options: DataOptions) -> LoadedData:
    """Holds out what is missing, thins training out, checks the result; see `data.load_data`."""
    _check_splits(given.splits)
    group_columns = _choose_group_columns(given.splits["train"], options)
    splits, description = _complete_splits(given.splits, options, group_columns)
    if options.max_train_examples is not None:
        rows = draw_rows(_labels(splits["train"]), options.max_train_examples, options.split.seed)
        splits["train"] = select_rows(splits["train"], rows)
    label_names = tuple(splits["train"].features["label"].names)
    counts = np.bincount(_labels(splits["train"]), minlength=len(label_names))
    return LoadedData(
        splits=DatasetDict({name: splits[name] for name in _SPLITS}),
        label_names=label_names,
        group_columns=group_columns,
        image_shape=_image_shape(splits),
        class_counts=tuple(int(count) for count in counts),
        split_description=description,
        fingerprint=_fingerprint(splits),
        warnings=(
            *given.warnings,
            *_check_classes(splits, label_names),
            *_check_groups(splits),
            *_check_duplicates(splits),
        ),
        skipped=given.skipped,
    )


def _check_splits(given: DatasetDict) -> None:
    if "train" not in given:
        raise DataError(f"data.root: there is no split to train on, only {', '.join(given)}.")
    for name, split in given.items():
        if len(split) == 0:
            advice = "" if name == "train" else ", or leave the split out: it is held out then"
            raise DataError(f"data.root: the split {name} has no rows. Add some{advice}.")


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


def _complete_splits(
    given: DatasetDict, options: DataOptions, group_columns: tuple[str, ...]
) -> tuple[dict[str, Dataset], str]:
    """The three splits, and a phrase on where those that are not for training come from."""
    splits, fractions = dict(given), options.split
    phrases = []
    if "test" not in given:
        phrases += [_hold_out("test", fractions.test_fraction, splits, options, group_columns)]
    if "validation" in given:
        phrases += ["validation as given by the data"]
    else:
        part = fractions.validation_fraction
        phrases += [_hold_out("validation", part, splits, options, group_columns)]
    return splits, "; ".join(phrases)


def _hold_out(
    name: str,
    fraction: float,
    splits: dict[str, Dataset],
    options: DataOptions,
    group_columns: tuple[str, ...],
) -> str:
    """Moves a part of the training rows into a split of its own; how, in a phrase.

    Files with the same content stay together in any case.
    """
    train, seed = splits["train"], options.split.seed
    keys = [column_values(train, column) for column in group_columns]
    if "measured" in train.column_names:
        keys.append(column_values(train, "measured", "digest"))
    if group_columns:
        groups = connect_groups(keys)
        _check_group_count(groups, group_columns, splits)
        kept, held = hold_out_groups(groups, fraction, seed)
    else:
        _check_class_sizes(train, splits)
        kept, held = _hold_out_single(_labels(train), keys, fraction, seed)
    splits["train"], splits[name] = select_rows(train, kept), select_rows(train, held)
    if not group_columns:
        return f"{name} is {len(held):,} single rows, classes in proportion"
    held_groups = sorted(distinct_values(splits[name], group_columns[0]))
    named = ", ".join(held_groups[:3]) + (", …" if len(held_groups) > 3 else "")
    return f"{name} is whole groups by {' and '.join(group_columns)} ({named})"


def _hold_out_single(
    labels: np.ndarray, contents: list[list[str]], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `hold_out_rows`, but rows of equal content (one list of keys, or none) go together."""
    if not contents:
        return hold_out_rows(labels, fraction, seed)
    _, first, content = np.unique(contents[0], return_index=True, return_inverse=True)
    _, held = hold_out_rows(labels[first], fraction, seed)
    is_held = np.isin(content, held)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _count_wanted(splits: dict[str, Dataset]) -> int:
    """How many splits are still to be made of the training rows, themselves among them."""
    return 1 + len(_SPLITS) - len(splits)


def _check_class_sizes(train: Dataset, splits: dict[str, Dataset]) -> None:
    needed = _count_wanted(splits)
    counts = np.bincount(_labels(train))
    small = [
        f"{name} has {count}"
        for name, count in zip(train.features["label"].names, counts, strict=False)
        if 0 < count < needed
    ]
    if small:
        raise DataError(
            f"data.split: each class needs at least {needed} rows, one for each split that is to "
            f"be made of them, but {', '.join(small[:5])}. Add rows, leave the class out, or bring "
            "validation and test splits of your own."
        )


def _check_group_count(
    groups: np.ndarray, columns: tuple[str, ...], splits: dict[str, Dataset]
) -> None:
    count, needed = len(np.unique(groups)), _count_wanted(splits)
    if count < needed:
        raise DataError(
            f"data.split: by {' and '.join(columns)} all training rows belong to {count} "
            f"group{'s' * (count > 1)}, and {needed} splits are to be made of whole groups. Add "
            "data, name the columns that matter in data.split.group_by, or split rows with "
            "data.split.group_by: none."
        )


def _labels(split: Dataset) -> np.ndarray:
    labels: np.ndarray = RowReader(split, ["label"]).read(np.arange(len(split)))["label"]
    return labels


def _image_shape(splits: dict[str, Dataset]) -> ImageShape:
    if "measured" not in splits["train"].column_names:
        image = RowReader(splits["train"], ["image"]).read(np.zeros(1, np.int64))["image"]
        height, width = image.shape[1:3]
        return ImageShape(height, width, image.shape[3] if image.ndim == 4 else 1)
    heights, widths = (
        {value for split in splits.values() for value in column_values(split, "measured", side)}
        for side in ("height", "width")
    )
    return ImageShape(
        heights.pop() if len(heights) == 1 else None,
        widths.pop() if len(widths) == 1 else None,
        _num_channels(splits["train"]),
    )


def _num_channels(files: Dataset) -> int:
    """Channels that all files of a split are read with."""
    return 1 if files[0]["image"]["color"] == "grey" else 3


def _check_classes(splits: dict[str, Dataset], label_names: tuple[str, ...]) -> list[str]:
    """Refuses what can't be trained on; returns what can be survived."""
    present = {name: set(np.unique(_labels(split))) for name, split in splits.items()}
    missing = {
        name: [label for i, label in enumerate(label_names) if i not in labels]
        for name, labels in present.items()
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
            sides = [distinct_values(splits[side], column) for side in ("train", name)]
            shared = sides[0] & sides[1]
            if shared:
                warnings.append(
                    f"{name} shares {len(shared)} of its {column} keys with train, so its score "
                    "may flatter the model"
                )
    return warnings


def _check_duplicates(splits: dict[str, Dataset]) -> list[str]:
    """Files of equal content in two splits, in words."""
    if "measured" not in splits["train"].column_names:
        return []
    ids = {
        name: dict(
            zip(column_values(split, "measured", "digest"), column_values(split, "id"), strict=True)
        )
        for name, split in splits.items()
    }
    warnings = []
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        shared = [digest for digest in ids[name] if digest in ids[other]]
        if shared:
            warnings.append(
                f"{name} shares {len(shared)} of its files with {other} "
                f"({ids[name][shared[0]]} is {ids[other][shared[0]]}), so its score may flatter "
                "the model"
            )
    return warnings


def _fingerprint(splits: dict[str, Dataset]) -> str:
    """SHA-256 over the names, labels and content of every row of every split, shortened."""
    digest = hashlib.sha256()
    for name in sorted(splits):
        split = splits[name]
        digest.update(f"{name}:{len(split)}".encode())
        for start in range(0, len(split), _BLOCK_ROWS):
            ids = column_values(split, "id", rows=slice(start, start + _BLOCK_ROWS))
            digest.update(("\0" * (start > 0) + "\0".join(ids)).encode())
        if "measured" in split.column_names:
            digest.update(f"{_num_channels(split)} channels".encode())
            digest.update("".join(column_values(split, "measured", "digest")).encode())
            digest.update(_labels(split).tobytes())
            continue
        for rows in _read_blocks(split, ["image", "label"]):
            digest.update(rows["image"].tobytes())
            digest.update(rows["label"].tobytes())
    return digest.hexdigest()[:16]


def _read_blocks(split: Dataset, columns: list[str]) -> Iterator[dict[str, np.ndarray]]:
    """All rows in order, so many at a time that memory doesn't grow with rows or image size."""
    reader = RowReader(split, columns)
    size = max(1, _BLOCK_PIXELS // reader.read(np.zeros(1, np.int64))["image"].size)
    for start in range(0, len(split), size):
        yield reader.read(np.arange(start, min(start + size, len(split))))


def pixel_statistics(split: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of all pixels by channel, on the scale 0…1.

    Summed in float64.
    """
    if "measured" in split.column_names:
        return _file_statistics(split)
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for rows in _read_blocks(split, ["image"]):
        images = rows["image"]
        scale = 255.0 if images.dtype == np.uint8 else 1.0
        pixels = images.reshape(-1, images.shape[3] if images.ndim == 4 else 1).astype(np.float64)
        pixels /= scale
        count += len(pixels)
        total = total + pixels.sum(0)
        squares = squares + (pixels**2).sum(0)
    return _mean_and_std(count, total, squares)


def _file_statistics(split: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    sides = [np.array(column_values(split, "measured", side)) for side in ("height", "width")]
    total, squares = (
        np.array(column_values(split, "measured", name)).sum(0)[: _num_channels(split)]
        for name in ("sums", "squares")
    )
    return _mean_and_std(int(sides[0] @ sides[1]), total, squares)


def _mean_and_std(
    count: int, total: np.ndarray, squares: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By channel, from the number of pixels, their sum and the sum of their squares."""
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    return tuple(float(value) for value in mean), tuple(float(value) for value in std)
