"""From the splits that files give to the splits that training takes; shared by every data set."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from hf_finetune.data import AudioShape, DataOptions, GivenData, ImageShape, LoadedData
from hf_finetune.data.division import divide, key_columns, read_labels
from hf_finetune.data.leaks import check_duplicates, check_groups
from hf_finetune.data.name_keys import warn_of_names
from hf_finetune.data.splits import draw_rows
from hf_finetune.data.tables import RowReader, column_values, select_rows
from hf_finetune.errors import DataError

_BLOCK_ROWS, _BLOCK_PIXELS = 4096, 4096 * 28 * 28


def prepare(given: GivenData, options: DataOptions) -> LoadedData:
    """Holds out what is missing, thins training out, checks the result; see `data.load_data`."""
    where = _name_source(options)
    _check_splits(given.splits, where)
    division = divide(given.splits, options.split)
    splits, unused = division.splits, division.unused
    if options.max_train_examples is not None:
        train, labels = splits["train"], read_labels(splits["train"])
        drawn = draw_rows(labels, options.max_train_examples, options.split.seed)
        splits["train"] = select_rows(train, drawn)
        unused = (*unused, select_rows(train, np.setdiff1d(np.arange(len(train)), drawn)))
    label_names = tuple(splits["train"].features["label"].names)
    counts = np.bincount(read_labels(splits["train"]), minlength=len(label_names))
    return LoadedData(
        splits=DatasetDict(splits),
        label_names=label_names,
        group_columns=division.group_columns,
        image_shape=None if _is_audio(splits["train"]) else _image_shape(splits),
        audio_shape=audio_shape(splits) if _is_audio(splits["train"]) else None,
        class_counts=tuple(int(count) for count in counts),
        split_description=division.description,
        fingerprint=_fingerprint(splits),
        warnings=(
            *given.warnings,
            *_check_classes(splits, label_names, where),
            *division.warnings,
            *check_groups(
                splits,
                key_columns(splits["train"]),
                division.group_columns,
                options.split.allow_overlap,
            ),
            *check_duplicates(splits),
            *_check_names(splits, options.split.group_by),
        ),
        skipped=given.skipped,
        unused=unused,
        contradictions=given.contradictions,
    )


def _check_names(splits: dict[str, Dataset], group_by: str | tuple[str, ...]) -> list[str]:
    """Group keys that only the names of files tell, in words."""
    train = splits["train"]
    is_open = group_by == "auto" and not key_columns(train) and "measured" in train.column_names
    return warn_of_names(splits) if is_open else []


def _name_source(options: DataOptions) -> str:
    """The setting that says where the data come from, to begin messages with."""
    return next((f"data.{key}" for key in ("root", "repo_id") if hasattr(options, key)), "data")


def _check_splits(given: DatasetDict, where: str) -> None:
    if "train" not in given:
        raise DataError(f"{where}: there is no split to train on, only {', '.join(given)}.")
    for name, split in given.items():
        if len(split) == 0:
            advice = "" if name == "train" else ", or leave the split out: it is held out then"
            raise DataError(f"{where}: the split {name} has no rows. Add some{advice}.")
        content = "audio" if "audio" in split.column_names else "image"
        missing = [key for key in ("id", content, "label") if key not in split.column_names]
        if missing:
            raise DataError(
                f"{where}: the split {name} has no column {' and no '.join(missing)}, only "
                f"{', '.join(split.column_names)}. The columns of a data set stand at the top of "
                "hf_finetune/data/__init__.py."
            )
        if not isinstance(split.features["label"], ClassLabel):
            raise DataError(
                f"{where}: the column label of the split {name} is {split.features['label']}. "
                "Expected a datasets.ClassLabel with the names of the classes."
            )


def reselect(data: LoadedData, splits: dict[str, Dataset]) -> LoadedData:
    """The same data with fewer rows in its splits, counted and checked anew.

    Raises:
        DataError: A split has no rows left, or training lacks a class.
    """
    _check_splits(DatasetDict(splits), "data")
    counts = np.bincount(read_labels(splits["train"]), minlength=len(data.label_names))
    warnings = [*data.warnings, *_check_classes(splits, data.label_names, "data")]
    return replace(
        data,
        splits=DatasetDict(splits),
        class_counts=tuple(int(count) for count in counts),
        audio_shape=audio_shape(splits) if _is_audio(splits["train"]) else None,
        fingerprint=_fingerprint(splits),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _is_audio(split: Dataset) -> bool:
    return "audio" in split.column_names


def audio_shape(splits: dict[str, Dataset]) -> AudioShape:
    """Lengths and rate of all clips of some splits, by their headers."""
    frames, rates = (
        np.concatenate([column_values(split, "audio", name) for split in splits.values()])
        for name in ("num_frames", "sampling_rate_hz")
    )
    seconds = frames / rates
    rate = int(rates[0]) if (rates == rates[0]).all() else None
    return AudioShape(rate, float(seconds.min()), float(seconds.max()))


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


def _check_classes(
    splits: dict[str, Dataset], label_names: tuple[str, ...], where: str
) -> list[str]:
    """Refuses what can't be trained on; returns what can be survived."""
    present = {name: set(np.unique(read_labels(split))) for name, split in splits.items()}
    missing = {
        name: [label for i, label in enumerate(label_names) if i not in labels]
        for name, labels in present.items()
    }
    if len(label_names) - len(missing["train"]) < 2:
        raise DataError(
            f"{where}: the training split has rows of one class only. A classifier needs two."
        )
    if missing["train"]:
        raise DataError(
            f"{where}: the training split has no rows of class {', '.join(missing['train'])}. "
            "Add some, or hold out other rows (data.split.seed)."
        )
    return [
        f"the {name} split has no rows of class {', '.join(labels)}"
        for name, labels in missing.items()
        if labels
    ]


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
            channels = 1 if _is_audio(split) else _num_channels(split)
            digest.update(f"{channels} channels".encode())
            digest.update("".join(column_values(split, "measured", "digest")).encode())
            digest.update(read_labels(split).tobytes())
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
