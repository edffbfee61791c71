"""Holds out validation rows so that nothing leaks, and draws smaller training sets fairly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_finetune.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def hold_out_rows(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows with the classes in proportion.

    Args:
        labels: int64 `[N]`.
        fraction: Part to hold out.
        seed: Chooses the rows.

    Returns:
        Kept and held-out row numbers, each int64 and rising.

    Raises:
        DataError: Too few rows of a class to lie on both sides.
    """
    from sklearn.model_selection import train_test_split

    held_rows, classes = math.ceil(fraction * len(labels)), len(np.unique(labels))
    if min(held_rows, len(labels) - held_rows) < classes:
        cure = f"Add rows: {2 * classes} are needed at least."
        if len(labels) >= 2 * classes:
            cure = (
                "Add rows, or set data.split.validation_fraction and data.split.test_fraction "
                f"between {classes / len(labels):.2g} and {1 - classes / len(labels):.2g}."
            )
        raise DataError(
            f"data.split: {fraction:g} of {len(labels)} rows are {held_rows}, and each side needs "
            f"one or more of each of {classes} classes. {cure}"
        )
    try:
        kept, held = train_test_split(
            np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"data.split: can't hold out {fraction:g} of {len(labels)} rows: "
            f"{str(error).rstrip('.')}. Hold out more (data.split.validation_fraction, "
            "data.split.test_fraction), or add rows."
        ) from error
    return np.sort(kept), np.sort(held)


def connect_groups(columns: Sequence[Sequence[str]]) -> np.ndarray:
    """Numbers the sets of rows that hang together by any of several group keys.

    Args:
        columns: One or more group columns, each N keys.

    Returns:
        int64 `[N]`; rows with the same number share a key directly or through other rows.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = len(columns[0])
    keys = [np.unique(np.asarray(column, dtype=object), return_inverse=True) for column in columns]
    offsets = np.cumsum([rows, *(len(values) for values, _ in keys)])
    ends = np.concatenate([offset + ids for offset, (_, ids) in zip(offsets, keys, strict=False)])
    starts = np.tile(np.arange(rows), len(columns))
    size = int(offsets[-1])
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    return np.asarray(component[:rows], dtype=np.int64)


def hold_out_groups(
    groups: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows by whole groups, near the fraction of every class.

    Goes through the groups in a shuffled order and holds out each that brings the held-out rows
    of the classes nearer to their share. A group that holds all rows of a class is kept.

    Args:
        groups: int64 `[N]`, the group of each row.
        labels: int64 `[N]`, its class.
        fraction: Part to hold out; at least one group is held out and at least one kept.
        seed: Chooses the groups.

    Returns:
        Kept and held-out row numbers, each int64 and rising.

    Raises:
        DataError: There is only one group.
    """
    _, group = np.unique(groups, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    if group.max() == 0:
        raise DataError(
            "data.split: all training rows belong to one group, so no whole group can be held out. "
            "Add data, or split rows with data.split.group_by: none."
        )
    chosen = _choose_groups(count_classes(group, label), fraction, seed)
    is_held = np.isin(group, chosen)
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


def _choose_groups(counts: csr_array, fraction: float, seed: int) -> list[int]:
    """Groups to hold out.

    Args:
        counts: Rows of each class in each group, `[groups, classes]`.
        fraction: Part of each class to hold out.
        seed: Chooses the order in which groups are looked at.
    """
    totals = counts.sum(axis=0)
    missing = fraction * totals  # rows of each class that are still to be held out
    left = totals.copy()
    order = np.random.default_rng(seed).permutation(counts.shape[0])
    chosen: list[int] = []
    nearest, least = int(order[0]), np.inf
    for group in order:
        part = slice(counts.indptr[group], counts.indptr[group + 1])
        classes, rows = counts.indices[part], counts.data[part]
        # How the sum of squared distances from the share, each over its class's rows, changes.
        change = float((rows * (rows - 2 * missing[classes]) / totals[classes]).sum())
        empties = bool((rows == left[classes]).any())
        cost = change + empties * totals.sum()
        if cost < 0.9 * least:  # clearly nearer: among groups much alike, the order decides
            nearest, least = int(group), cost
        if cost < 0:
            chosen.append(int(group))
            missing[classes] -= rows
            left[classes] -= rows
    return chosen or [nearest]


def count_classes(group: np.ndarray, label: np.ndarray) -> csr_array:
    """Rows of each class in each group, int64 `[groups, classes]`; mostly zeros, so sparse."""
    from scipy.sparse import csr_array

    counts = csr_array((np.ones(len(group), np.int64), (group, label)))
    counts.sum_duplicates()
    return counts


def draw_rows(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Draws rows with the classes in proportion; every class keeps at least one row.

    Args:
        labels: int64 `[N]`.
        count: How many; all where there are no more.
        seed: Chooses the rows.

    Returns:
        Row numbers, int64 and rising.

    Raises:
        DataError: Fewer rows are asked for than there are classes.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if count >= len(labels):
        return np.arange(len(labels))
    if count < len(classes):
        raise DataError(
            f"data.max_train_examples: {count} rows can't hold {len(classes)} classes. "
            f"Ask for at least {len(classes)}."
        )
    exact = sizes * (count / len(labels))
    share = np.maximum(1, np.floor(exact).astype(int))
    while share.sum() < count:  # largest remainder first
        share[np.argmax(np.where(share < sizes, exact - share, -np.inf))] += 1
    while share.sum() > count:
        share[np.argmax(np.where(share > 1, share - exact, -np.inf))] -= 1
    generator = np.random.default_rng(seed)
    drawn = [
        generator.permutation(np.flatnonzero(labels == value))[:part]
        for value, part in zip(classes, share, strict=True)
    ]
    return np.sort(np.concatenate(drawn))
