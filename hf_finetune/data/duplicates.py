"""Finds examples whose pixels are the very same, by a hash of each image.

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
