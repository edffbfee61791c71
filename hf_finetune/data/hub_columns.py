"""Chooses what of a foreign data set are the splits, the examples, their classes and groups.

What `hub` asks before it reads any row; where a choice isn't plain, the errors list what there
is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from datasets import Audio, ClassLabel, Features, Image, Value

from hf_finetune.data.listing import find_split
from hf_finetune.errors import DataError
from hf_finetune.registry import nearest

if TYPE_CHECKING:
    from hf_finetune.data.hub import Options

SPLITS = ("train", "validation", "test")
_LABEL_NAMES = ("label", "labels")


@dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
        content: Name of the column of images or sounds.
        kind: Which of the two.
        label: Name of the column of classes.
        groups: Names of the columns of group keys.
    """

    content: str
    kind: Literal["image", "audio"]
    label: str
    groups: tuple[str, ...]


def choose_splits(names: Sequence[str], options: Options) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which split of the data set is which.

    Args:
        names: The data set's splits.
        options: The data set's options.

    Returns:
        Their names by train, validation and test, as far as there are such; and warnings of those
        that are left aside.

    Raises:
        DataError: A split is not there, or it can't be told which is meant.
    """
    chosen: dict[str, str] = {}
    for split in SPLITS:
        wanted: str = getattr(options, f"{split}_split")
        name = _find(split, names) if wanted == "auto" else wanted
        if name is None or (wanted == "none" and split != "train"):
            continue
        if name not in names:
            raise DataError(
                f"data.{split}_split: there is no split {name!r}. The data set has "
                f"{', '.join(names)}."
            )
        if name in chosen.values():
            raise DataError(f"data.{split}_split: {name!r} is another split already. Name another.")
        chosen[split] = name
    if "train" not in chosen:
        raise DataError(
            f"data.train_split: it can't be told which split to train on; there are "
            f"{', '.join(names)}. Name one, such as data.train_split={names[0]}"
        )
    left = [name for name in names if name not in chosen.values() and find_split(name) is None]
    warnings = [f"the split {name} of the data set is left aside" for name in left]
    return chosen, tuple(warnings)


def _find(split: str, names: Sequence[str]) -> str | None:
    """The split that goes by a usual name, or the only one, to train on."""
    if split in names:
        return split
    found = [name for name in names if find_split(name) == split]
    if len(found) > 1:
        raise DataError(
            f"data.{split}_split: {' and '.join(found)} could both be meant. Name one of them."
        )
    if split == "train" and not found and len(names) == 1:
        return names[0]
    return found[0] if found else None


def choose_columns(features: Features, options: Options) -> Columns:
    """Which column is what.

    Raises:
        DataError: A column that was named is not there or can't be used as that, or it can't be
            told which one to take.
    """
    for key in ("image_column", "audio_column", "label_column"):
        _require(features, key, getattr(options, key))
    for name in options.group_columns:
        _require(features, "group_columns", name)
        if not _is_plain(features[name]):
            raise DataError(
                f"data.group_columns: {name!r} is {_say_type(features[name])}. Allowed: text, "
                "whole numbers and class labels."
            )
    content, kind = _choose_content(features, options)
    label = _choose_label(features, options)
    taken = {content, label} & set(options.group_columns)
    if taken:
        raise DataError(
            f"data.group_columns: {taken.pop()!r} is what is learnt, so it can't be a group key. "
            f"{_say_columns(features)}"
        )
    return Columns(content, kind, label, options.group_columns)


def _require(features: Features, key: str, name: str | None) -> None:
    if name is not None and name not in features:
        raise DataError(
            f"data.{key}: there is no column {name!r}. {nearest(name, list(features))} "
            f"{_say_columns(features)}"
        )


def _choose_content(features: Features, options: Options) -> tuple[str, Literal["image", "audio"]]:
    if options.image_column is not None:
        _check_files(features, "image_column", options.image_column, Image)
        return options.image_column, "image"
    if options.audio_column is not None:
        _check_files(features, "audio_column", options.audio_column, Audio)
        return options.audio_column, "audio"
    found = [name for name, feature in features.items() if isinstance(feature, Image | Audio)]
    if len(found) == 1:
        return found[0], "image" if isinstance(features[found[0]], Image) else "audio"
    what = f"{', '.join(found)} could be meant" if found else "no column is of type Image or Audio"
    raise DataError(
        f"data.image_column: {what}. {_say_columns(features)} Name one in data.image_column or "
        "data.audio_column."
    )


def _check_files(features: Features, key: str, name: str, wanted: type) -> None:
    """Stops at a column that holds no files; undeclared ones (structs with bytes) are taken."""
    feature = features[name]
    has_bytes = isinstance(feature, dict) and "bytes" in feature
    if not isinstance(feature, wanted) and not has_bytes:
        raise DataError(
            f"data.{key}: {name!r} is {_say_type(feature)}. Allowed: type {wanted.__name__}, or "
            f"structs with the files' bytes. {_say_columns(features)}"
        )


def _choose_label(features: Features, options: Options) -> str:
    if options.label_column is not None:
        if not _is_plain(features[options.label_column]):
            raise DataError(
                f"data.label_column: {options.label_column!r} is "
                f"{_say_type(features[options.label_column])}. Allowed: class labels, text and "
                f"whole numbers, one an example. {_say_columns(features)}"
            )
        named: str = options.label_column
        return named
    for name in _LABEL_NAMES:
        if name in features and _is_plain(features[name]):
            return name
    found: list[str] = [
        name
        for name, feature in features.items()
        if isinstance(feature, ClassLabel) and name not in options.group_columns
    ]
    if len(found) == 1:
        return found[0]
    what = f"{', '.join(found)} could be meant" if found else "no column is called label"
    raise DataError(
        f"data.label_column: {what}. {_say_columns(features)} Name the column of classes."
    )


def _is_plain(feature: Any) -> bool:
    """Whether a column holds one class, text or whole number an example."""
    if isinstance(feature, ClassLabel):
        return True
    plain = ("string", "large_string", "bool", "int", "uint")
    return isinstance(feature, Value) and feature.dtype.startswith(plain)


def _say_type(feature: Any) -> str:
    if isinstance(feature, dict):
        return f"a struct of {', '.join(feature)}"
    return f"of type {feature.dtype if isinstance(feature, Value) else type(feature).__name__}"


def _say_columns(features: Features) -> str:
    types = {name: _say_type(one).removeprefix("of type ") for name, one in features.items()}
    named = (f"{name} ({kind})" for name, kind in types.items())
    return f"The data set has {', '.join(named)}."
