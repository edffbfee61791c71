"""The data room: one file a data set; its door turns a configuration into splits of raw rows.

Contract of a kind (`hf_finetune/data/<name>.py`):
    `class Options(DataOptions)` with `name: Literal["<name>"]`, and
    `load(options) -> datasets.DatasetDict` (or `GivenData`, where there is more to say) with the
    splits that the files give (`train`, perhaps `validation` and `test`), all with the same
    columns:

    | column | feature | meaning |
    | --- | --- | --- |
    | `id` | string | the example's name, unique and stable: `train_images_0.pt/17` |
    | `image` | fixed lists `[height][width]`, perhaps `[channel]` | uint8 0…255 or float32 0…1 |
    | or | `image_files.ImageFile` | a file that is decoded when its batch is made |
    | `label` | ClassLabel | |
    | `measured` | a struct, with files only | what `image_files.describe_pixels` found |
    | any other | string | a group key: rows that share it must stay in one split |

    Held-out rows are taken from `train` where the files give no validation or no test split.

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
    """How validation and test are held out where the data set brings none of its own."""

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training rows to hold out. With groups, whole groups come nearest to it."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """The same for the test split, which is held out first."""
    group_by: Literal["auto", "none"] | Annotated[tuple[str, ...], Field(strict=False)] = "auto"
    """Columns whose groups stay on one side; `auto`: the data set's own; `none`: split rows."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses what is held out; apart from the run's seed, so that repeated seeds share a split."""


class DataOptions(Section):
    """What every data set understands."""

    name: str
    max_train_examples: Annotated[int, Field(gt=0)] | None = None
    """Train on this many rows, drawn from the training split with the classes in proportion."""
    on_bad_example: Literal["stop", "skip"] = "stop"
    """With data of one file an example: whether files that can't be used stop the run, or are left
    out and listed in its record."""
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
class GivenData:
    """Splits as the files give them, and what was found out in reading them.

    Attributes:
        splits: train, perhaps validation and test; their columns stand at the room's door.
        warnings: What was survived.
        skipped: Examples that were left out, each with the reason.
    """

    splits: datasets.DatasetDict
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class LoadedData:
    """Splits that are ready to train on, and what was found out about them.

    Attributes:
        splits: train, validation, test.
        label_names: Class names in the order of the label ids.
        group_columns: Columns whose groups lie in one split each (may be empty).
        image_shape: Shape of the images.
        class_counts: Training rows of each class, in the order of `label_names`.
        split_description: One phrase on how validation and test were chosen, for people.
        fingerprint: Hash of the rows and of the split.
        warnings: What was survived; each stands in the run's record.
        skipped: Examples that were left out, each with the reason; they stand there, too.
    """

    splits: datasets.DatasetDict
    label_names: tuple[str, ...]
    group_columns: tuple[str, ...]
    image_shape: ImageShape
    class_counts: tuple[int, ...]
    split_description: str
    fingerprint: str
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


def load_data(options: DataOptions) -> LoadedData:
    """Loads a data set, holds out what it lacks, and checks that it can be trained on.

    Args:
        options: The configuration's `data` section.

    Raises:
        DataError: Files are missing or faulty, a split is empty, a class is missing in training,
            or there are fewer than two classes.
    """
    from hf_finetune.data.preparation import prepare

    given = kind_of(options).load(options)
    return prepare(given if isinstance(given, GivenData) else GivenData(given), options)
