"""Looks for what makes a score flatter a model: shared groups, copies, near copies, skewed classes.

Place: the verb `audit` prints what is found here (`audit_report`); training itself stops at groups
on both sides of a split, and looks no further than copied files.
"""

from __future__ import annotations

import hashlib
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
from hf_finetune.data.leaks import Overlap, find_overlaps
from hf_finetune.data.near_duplicates import Vectors, describe_clip, describe_images, find_near
from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.errors import DataError

_BLOCK_ROWS = 256


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
    def is_sound(self) -> bool:
        """Whether no group that is to stay together and no copy lies in two splits or classes."""
        bad = (one for one in self.copies if one.is_across_splits or not one.labels_agree)
        return not self.promised_overlaps and next(bad, None) is None


def audit_data(data: LoadedData) -> Audit:
    """Reads every example of every split once.

    Args:
        data: Loaded data.

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
        overlaps=tuple(find_overlaps(splits, key_columns(splits["train"]))),
        copies=find_duplicates(hashes, ids, places, every_label),
        near_copies=_find_near_copies(hashes, np.concatenate(vectors), ids, places, every_label),
    )


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
    from hf_finetune.features.audio_decoding import read_audio

    reader = RowReader(split, ["audio"])
    for start in range(0, len(split), _BLOCK_ROWS):
        files = reader.read(np.arange(start, min(start + _BLOCK_ROWS, len(split))))["audio"]
        hashes, vectors = [], []
        for file in files:
            samples, rate = read_audio(file), file["sampling_rate_hz"]
            hashes.append(hashlib.blake2b(samples.tobytes(), digest_size=16).digest())
            vectors.append(describe_clip(samples, rate))
        yield hashes, np.stack(vectors)
