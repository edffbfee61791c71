"""The data room: one file a data set; its door turns a configuration into splits of raw rows.

Contract of a kind (`hf_finetune/data/<name>.py`):
    `class Options(DataOptions)` with `name: Literal["<name>"]`, and
    `load(options) -> datasets.DatasetDict` with the splits that the files give (`train`, `test`,
    perhaps `validation`), all with the same columns:

    | column | feature | meaning |
    | --- | --- | --- |
    | `id` | string | the example's name, unique and stable: `train_images_0.pt/17` |
    | `image` | fixed lists `[height][width]`, perhaps `[channel]` | uint8 0…255 or float32 0…1 |
    | `label` | ClassLabel | |
    | any other | string | a group key: rows that share it must stay in one split |

Everything downstream reads splits only through `LoadedData`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.options import Section
from hf_finetune.registry import kind_of

if TYPE_CHECKING:
    import datasets


class SplitOptions(Section):
    """How validation is held out where the data set brings none of its own."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training rows to hold out. With groups, whole groups come nearest to it."""
    group_by: Literal["auto", "none"] | Annotated[tuple[str, ...], Field(strict=False)] = "auto"
    """Columns whose groups stay on one side; `auto`: the data set's own; `none`: split rows."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses what is held out; apart from the run's seed, so that repeated seeds share a split."""


class DataOptions(Section):
    """What every data set understands."""

    name: str
    max_train_examples: Annotated[int, Field(gt=0)] | None = None
    """Train on this many rows, drawn from the training split with the classes in proportion."""
    split: SplitOptions = SplitOptions()


@dataclass(frozen=True)
class ImageShape:
    """Shape of every image of a data set, where they agree.

    Attributes:
        height: Pixels, or None where images differ.
        width: Pixels, or None where images differ.
        channels: 1 (grey) or 3 (red, green, blue).
    """

    height: int | None
    width: int | None
    channels: int


@dataclass(frozen=True)
class LoadedData:
    """Splits that are ready to train on, and what was found out about them.

    Attributes:
        splits: train, validation, test.
        label_names: Class names in the order of the label ids.
        group_columns: Columns whose groups lie in one split each (may be empty).
        image_shape: Shape of the images.
        class_counts: Training rows of each class, in the order of `label_names`.
        split_description: One phrase on how validation was chosen, for people.
        fingerprint: Hash of the rows and of the split.
        warnings: What was survived; each stands in the run's record.
    """

    splits: datasets.DatasetDict
    label_names: tuple[str, ...]
    group_columns: tuple[str, ...]
    image_shape: ImageShape
    class_counts: tuple[int, ...]
    split_description: str
    fingerprint: str
    warnings: tuple[str, ...] = ()


def load_data(options: DataOptions) -> LoadedData:
    """Loads a data set, holds out validation, and checks that it can be trained on.

    Args:
        options: The configuration's `data` section.

    Raises:
        DataError: Files are missing or faulty, a split is empty, a class is missing in training,
            or there are fewer than two classes.
    """
    from hf_finetune.data.preparation import prepare

    return prepare(kind_of(options).load(options), options)
