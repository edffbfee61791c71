"""Finds examples whose pixels (or samples) are the very same, by a hash of each.

Place: `inspection` reports them: an image in two splits flatters the score, an image with two
labels has a wrong one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Duplicate:
    """Examples with the very same pixels.

    Attributes:
        ids: Their names.
        splits: The split of each.
        labels: Label id of each.
    """

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def labels_agree(self) -> bool:
        """Whether all have the same label; else one of the labels is wrong."""
        return len(set(self.labels)) == 1

    @property
    def is_across_splits(self) -> bool:
        """Whether they lie in more than one split."""
        return len(set(self.splits)) > 1


def describe_duplicates(duplicates: Sequence[Duplicate], noun: str) -> str:
    """How many there are, in words.

    Args:
        duplicates: Sets of equal examples.
        noun: What the examples are: images, clips.
    """
    if not duplicates:
        content = "pixels" if noun == "images" else "samples"
        return f"none: no two {noun} have the same {content}"
    across = sum(one.is_across_splits for one in duplicates)
    differ = sum(not one.labels_agree for one in duplicates)
    parts = [
        f"{len(duplicates):,} {noun} occur more than once",
        f"{across:,} of them in several splits, which flatters the score" if across else "",
        f"the labels of {differ:,} disagree, so one is wrong" if differ else "all labels agree",
    ]
    return "; ".join(part for part in parts if part)


def hash_image(image: np.ndarray) -> bytes:
    """16 bytes that tell images apart, by shape, type and every pixel of `[H, W, C]`."""
    start = f"{image.dtype} {image.shape}".encode()
    return hashlib.blake2b(image.tobytes(), digest_size=16, key=start).digest()


def find_duplicates(
    hashes: Sequence[bytes], ids: Sequence[str], splits: Sequence[str], labels: Sequence[int]
) -> tuple[Duplicate, ...]:
    """Sets of equal images: first those whose labels differ, then those across splits.

    Args:
        hashes: From `hash_image`, one an example, as are the others.
        ids: Names.
        splits: The split of each.
        labels: Label id of each.
    """
    first: dict[bytes, int] = {}
    sets: dict[int, list[int]] = {}
    for row, digest in enumerate(hashes):
        start = first.setdefault(digest, row)
        if start != row:
            sets.setdefault(start, [start]).append(row)
    found = [
        Duplicate(
            tuple(ids[row] for row in rows),
            tuple(splits[row] for row in rows),
            tuple(int(labels[row]) for row in rows),
        )
        for rows in sets.values()
    ]
    return tuple(sorted(found, key=lambda one: (one.labels_agree, not one.is_across_splits)))
