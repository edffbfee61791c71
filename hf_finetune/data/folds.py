"""Deals rows out into folds, each of which is the test split of one run of a cross-validation.

Beside `splits`, which holds out one part; `division` chooses between them.
"""

from __future__ import annotations

import numpy as np

from hf_finetune.data.splits import count_classes
from hf_finetune.errors import DataError


def deal_rows(labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Deals single rows out, with the classes in proportion.

    Args:
        labels: int64 `[N]`.
        num_folds: How many folds, at least 2.
        seed: Chooses the rows.

    Returns:
        The fold of each row, int64 `[N]`, 0 … num_folds - 1.

    Raises:
        DataError: A class has fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    fewest = np.unique(labels, return_counts=True)[1].min()
    if fewest < num_folds:
        raise DataError(
            f"data.split.num_folds: {num_folds} folds need as many rows of each class, and one has "
            f"{fewest}. Ask for fewer folds, add rows, or leave the class out."
        )
    folds = np.empty(len(labels), np.int64)
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    for number, (_, rows) in enumerate(splitter.split(labels, labels)):
        folds[rows] = number
    return folds


def deal_groups(groups: np.ndarray, labels: np.ndarray, num_folds: int, seed: int) -> np.ndarray:
    """Deals whole groups out, with sizes and classes as even as the groups allow.

    The largest groups come first, each to the fold that lacks its classes most; so every fold
    gets one. (`StratifiedGroupKFold` of sklearn needs a second for 600 groups.)

    Args:
        groups: int64 `[N]`, the group of each row.
        labels: int64 `[N]`, its class.
        num_folds: How many folds, at least 2.
        seed: Orders groups of one size.

    Returns:
        The fold of each row, int64 `[N]`, 0 … num_folds - 1.

    Raises:
        DataError: There are fewer groups than folds.
    """
    names, group = np.unique(groups, return_inverse=True)
    _, label = np.unique(labels, return_inverse=True)
    if len(names) < num_folds:
        raise DataError(
            f"data.split.num_folds: {num_folds} folds need as many groups, and all training rows "
            f"belong to {len(names)}. Ask for fewer folds, or name other columns in "
            "data.split.group_by."
        )
    counts = count_classes(group, label)
    totals = counts.sum(axis=0)
    # By how much each fold still falls short of its share of each class.
    missing = np.tile(totals / num_folds, (num_folds, 1))
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), np.int64)
    for number in order[np.argsort(-counts.sum(axis=1)[order], kind="stable")]:
        part = slice(counts.indptr[number], counts.indptr[number + 1])
        classes, rows = counts.indices[part], counts.data[part]
        need = (rows * missing[:, classes] / totals[classes]).sum(axis=1)
        fold = int(np.lexsort((-missing.sum(axis=1), -need.round(9)))[0])
        missing[fold, classes] -= rows
        fold_of_group[number] = fold
    return fold_of_group[group]
