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
    | `audio` | `audio_decoding.AudioFile` | instead of `image`: a clip, decoded likewise |
    | `label` | ClassLabel | |
    | `measured` | a struct, with files only | found by `describe_pixels` or `measure_audio` |
    | any other | string | a group key: rows that share it must stay in one split |

    Held-out rows are taken from `train` where the files give no validation or no test split.

Everything downstream reads splits only through `LoadedData`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from hf_finetune.options import Section
from hf_finetune.registry import kind_of

if TYPE_CHECKING:
    import datasets


class SplitOptions(Section):
    """How validation and test are held out where the data set brings none of its own.

    The test split is the data's own, or `test_fraction` of the training rows; `num_folds` and
    `leave_out` choose it otherwise, and `file` gives every split.
    """

    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training rows to hold out. With groups, whole groups come nearest to it."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """The same for the test split, which is held out first."""
    group_by: Literal["auto", "none"] | Annotated[tuple[str, ...], Field(strict=False)] = "auto"
    """Columns whose groups stay on one side; `auto`: the data set's own, or the one of `leave_out`;
    `none`: split rows."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Chooses what is held out; apart from the run's seed, so that repeated seeds share a split."""
    num_folds: Annotated[int, Field(ge=2)] | None = None
    """Deal the rows (or groups) out into this many folds, of which one is the test split."""
    fold: Annotated[int, Field(ge=1)] = 1
    """Which of the folds is the test split, from 1 on; `cross-validate` takes each in turn."""
    leave_out: dict[str, str | int | list[str | int]] | None = None
    """The test split is the rows that have these values of a column: `{speaker: [jackson]}`."""
    file: str | None = None
    """Take the splits from here: the split.csv of a run, a run directory, or a table of your own
    with the columns id and split (train, validation, test or unused)."""
    pool_given: bool = False
    """Put validation and test that the data gives back to the training rows, and split anew."""
    allow_overlap: bool = False
    """Train even where groups lie on both sides of a split; the record says so."""

    @field_validator("leave_out")
    @classmethod
    def _one_column_of_texts(
        cls, value: dict[str, str | int | list[str | int]] | None
    ) -> dict[str, list[str]] | None:
        if value is None:
            return None
        texts = {
            column: [str(one) for one in (values if isinstance(values, list) else [values])]
            for column, values in value.items()
        }
        if len(texts) != 1 or not all(texts.values()):
            raise ValueError(
                "must name one column and its values that are the test split, as {speaker: "
                f"[jackson]}}, got {value}"
            )
        return texts

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [name for name in ("num_folds", "leave_out", "file") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} exclude each other. Keep one of them")
        if self.fold > (self.num_folds or 1):
            limit = "num_folds, which is missing" if self.num_folds is None else self.num_folds
            raise ValueError(f"fold must be at most {limit}, got {self.fold}")
        return self

    @property
    def left_out(self) -> tuple[str, tuple[str, ...]] | None:
        """Column and values of `leave_out`."""
        for column, values in (self.leave_out or {}).items():
            return column, tuple(str(one) for one in (values if isinstance(values, list) else []))
        return None

    @property
    def named_columns(self) -> tuple[str, ...]:
        """Columns that must be there, since these options name them."""
        named = () if isinstance(self.group_by, str) else self.group_by
        return tuple(dict.fromkeys((*named, *(self.leave_out or {}))))


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
class AudioShape:
    """What is alike in every clip of a data set, and how long they are.

    Attributes:
        sampling_rate_hz: Frames a second, or None where clips differ.
        least_seconds: Length of the shortest clip.
        most_seconds: Length of the longest.
    """

    sampling_rate_hz: int | None
    least_seconds: float
    most_seconds: float


@dataclass(frozen=True)
class Contradiction:
    """Examples of the same content that stand under several classes; they are in no split.

    Attributes:
        ids: Their names.
        labels: Name of the class of each.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class GivenData:
    """Splits as the files give them, and what was found out in reading them.

    Attributes:
        splits: train, perhaps validation and test; their columns stand at the room's door.
        warnings: What was survived.
        skipped: Examples that were left out, each with the reason.
        contradictions: Those of them that were left out for their labels.
    """

    splits: datasets.DatasetDict
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()


@dataclass(frozen=True)
class LoadedData:
    """Splits that are ready to train on, and what was found out about them.

    Attributes:
        splits: train, validation, test.
        label_names: Class names in the order of the label ids.
        group_columns: Columns whose groups lie in one split each (may be empty).
        image_shape: Shape of the images; None where the examples are sound.
        class_counts: Training rows of each class, in the order of `label_names`.
        split_description: One phrase on how validation and test were chosen, for people.
        fingerprint: Hash of the rows and of the split.
        warnings: What was survived; each stands in the run's record.
        skipped: Examples that were left out, each with the reason; they stand there, too.
        unused: Readable rows that are in no split: left aside, more than were to be trained on, or
            clips that don't suit the model.
        audio_shape: Lengths and rate of the clips; None where the examples are images.
        contradictions: Skipped examples that stand under several classes.
    """

    splits: datasets.DatasetDict
    label_names: tuple[str, ...]
    group_columns: tuple[str, ...]
    image_shape: ImageShape | None
    class_counts: tuple[int, ...]
    split_description: str
    fingerprint: str
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    unused: tuple[datasets.Dataset, ...] = ()
    audio_shape: AudioShape | None = None
    contradictions: tuple[Contradiction, ...] = ()


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
