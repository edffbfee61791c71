"""Looks for what makes a score flatter a model: shared groups, copies, near copies, skewed classes.

Place: the verb `audit` prints what is found here (`audit_report`); training itself stops at groups
on both sides of a split, and looks no further than copied files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from datasets import Dataset

from hf_finetune.data import LoadedData
from hf_finetune.data.division import key_columns, read_labels
from hf_finetune.data.duplicates import Duplicate, find_duplicates, hash_image
from hf_finetune.data.image_files import quiet_pillow
from hf_finetune.data.inspection import read_images
from hf_finetune.data.leaks import Overlap, find_overlaps, list_overlaps
from hf_finetune.data.name_patterns import match_names, part_names
from hf_finetune.data.near_duplicates import Vectors, describe_clip, describe_images, find_near
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

_BLOCK_ROWS = 256
_MOST_SECONDS = 120  # of a clip that are compared with others


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        data: What was looked at.
        class_counts: Rows of each class by split, in the order of the label ids.
        overlaps: Group keys that two splits share, of every column.
        copies: Sets of examples with the same decoded content.
        near_copies: Sets of examples that are nearly the same, one of each content.
    """

    data: LoadedData
    class_counts: dict[str, tuple[int, ...]]
    overlaps: tuple[Overlap, ...]
    copies: tuple[Duplicate, ...]
    near_copies: tuple[Duplicate, ...]

    @property
    def promised_overlaps(self) -> tuple[Overlap, ...]:
        """Overlaps of the columns that the split is to hold together."""
        return tuple(one for one in self.overlaps if one.column in self.data.group_columns)

    @property
    def leaks(self) -> bool:
        """Whether a group that is to stay together, or a copy, lies in two splits or classes."""
        bad = any(one.is_across_splits or not one.labels_agree for one in self.copies)
        return bad or bool(self.promised_overlaps)

    @property
    def is_sound(self) -> bool:
        """Whether nothing leaks, and nothing was left out for standing under several classes."""
        return not (self.leaks or self.data.contradictions)


def audit_data(data: LoadedData, pattern: str | None = None) -> Audit:
    """Reads every example of every split once.

    Args:
        data: Loaded data.
        pattern: Of the files' names: those of its parts that are no columns are looked at, too.

    Raises:
        DataError: A file has gone bad since it was loaded, or the examples are neither images nor
            audio.
    """
    splits = data.splits
    hashes: list[bytes] = []
    vectors: list[Vectors] = []
    with quiet_pillow():
        for split in splits.values():
            for some_hashes, some_vectors in _read(split):
                hashes += some_hashes
                vectors.append(some_vectors)
    ids = list(chain(*(column_values(split, "id") for split in splits.values())))
    places = list(chain(*([name] * len(split) for name, split in splits.items())))
    labels = {name: read_labels(split) for name, split in splits.items()}
    every_label = np.concatenate(list(labels.values())).tolist()
    size = len(data.label_names)
    return Audit(
        data=data,
        class_counts={
            name: tuple(np.bincount(ones, minlength=size).tolist()) for name, ones in labels.items()
        },
        overlaps=(
            *find_overlaps(splits, key_columns(splits["train"])),
            *_name_overlaps(data, pattern),
        ),
        copies=find_duplicates(hashes, ids, places, every_label),
        near_copies=_find_near_copies(hashes, np.concatenate(vectors), ids, places, every_label),
    )


def _name_overlaps(data: LoadedData, pattern: str | None) -> list[Overlap]:
    """Overlaps of the keys that file names carry, and that the split doesn't hold together."""
    known = {"label", *key_columns(data.splits["train"])}
    parts = [name for name in part_names(pattern or "") if name not in known]
    found = {
        name: match_names(column_values(split, "id"), pattern or "")
        for name, split in data.splits.items()
        if parts
    }
    return [
        overlap
        for part in parts
        for overlap in list_overlaps(
            part, {name: {keys[part] for keys in rows} for name, rows in found.items()}
        )
    ]


def _find_near_copies(
    hashes: list[bytes], vectors: Vectors, ids: list[str], splits: list[str], labels: list[int]
) -> tuple[Duplicate, ...]:
    """Sets across splits first; of each content, the first example only."""
    first = np.sort(np.unique(np.asarray(hashes), return_index=True)[1])
    sets = [[int(first[row]) for row in rows] for rows in find_near(vectors[first])]
    found = [
        Duplicate(
            tuple(ids[row] for row in rows),
            tuple(splits[row] for row in rows),
            tuple(labels[row] for row in rows),
        )
        for rows in sets
    ]
    return tuple(sorted(found, key=lambda one: (not one.is_across_splits, one.labels_agree)))


def _read(split: Dataset) -> Iterator[tuple[list[bytes], Vectors]]:
    """Hash and vector of each example, in order, a block at a time."""
    if "image" in split.column_names:
        for images in read_images(split):
            yield [hash_image(image) for image in images], describe_images(images)
    elif "audio" in split.column_names:
        yield from _read_clips(split)
    else:
        raise DataError("audit: looks at images and audio, and this data set has neither.")


def _read_clips(split: Dataset) -> Iterator[tuple[list[bytes], Vectors]]:
    """The hash of all samples, as it was measured, and the vector of a clip's beginning.

    A clip may last hours, of which no more than this goes into memory.
    """
    from hf_finetune.features.audio_decoding import read_audio

    reader = RowReader(split, ["audio"])
    for start in range(0, len(split), _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, len(split)))
        vectors = []
        for file in reader.read(np.arange(rows.start, rows.stop))["audio"]:
            rate = file["sampling_rate_hz"]
            samples = read_audio(file, 0, min(file["num_frames"], _MOST_SECONDS * rate))
            vectors.append(describe_clip(samples, rate))
        digests = column_values(split, "measured", "digest", rows)
        yield [bytes.fromhex(digest) for digest in digests], np.stack(vectors)
