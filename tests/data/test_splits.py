"""Held-out groups and folds: nothing torn apart, nothing lost, classes in proportion."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.data.folds import deal_groups, deal_rows
from hf_finetune.data.splits import connect_groups, hold_out_groups, hold_out_rows
from hf_finetune.errors import DataError


def draw_groups(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some groups of uneven sizes, and labels that lean on the group."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 30, generator.integers(4, 40))
    groups = np.repeat(generator.permutation(len(sizes)), sizes)
    leaning = (groups + generator.integers(0, 2, len(groups))) % 3
    order = generator.permutation(len(groups))
    return groups[order], leaning[order]


@pytest.mark.parametrize("seed", range(25))
def test_no_group_is_torn_apart(seed: int):
    groups, labels = draw_groups(seed)
    fraction = 0.05 + 0.9 * np.random.default_rng(seed).random()
    kept, held = hold_out_groups(groups, labels, fraction, seed)
    assert len(kept) > 0
    assert len(held) > 0
    assert sorted([*kept, *held]) == list(range(len(groups)))
    assert not {*groups[kept]} & {*groups[held]}
    largest = np.bincount(groups).max()
    assert abs(len(held) - fraction * len(groups)) <= largest + len(np.unique(groups))
    again = hold_out_groups(groups, labels, fraction, seed)
    assert np.array_equal(again[1], held)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_one_class_are_held_out_in_proportion(seed: int):
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(90), generator.integers(3, 12, 90))
    labels = groups % 3
    _, held = hold_out_groups(groups, labels, 0.2, seed)
    shares = np.bincount(labels[held], minlength=3) / np.bincount(labels)
    assert np.abs(shares - 0.2).max() < 0.05


def test_the_last_group_of_a_class_is_kept_for_training():
    groups = np.repeat(np.arange(6), 10)
    labels = np.where(groups == 0, 1, 0)
    held = {int(g) for s in range(30) for g in groups[hold_out_groups(groups, labels, 0.6, s)[1]]}
    assert held == {1, 2, 3, 4, 5}


def test_a_small_share_takes_a_small_group():
    groups = np.repeat([0, 1, 2, 3], [50, 40, 30, 3])
    for seed in range(10):
        _, held = hold_out_groups(groups, np.zeros(len(groups), np.int64), 0.01, seed)
        assert {*groups[held]} == {3}


def test_groups_much_alike_are_chosen_by_the_seed():
    groups = np.repeat(np.arange(8), 100 + np.arange(8))
    labels = np.arange(len(groups)) % 2
    chosen = {int(groups[hold_out_groups(groups, labels, 0.02, s)[1]][0]) for s in range(40)}
    assert len(chosen) > 4


def test_shares_too_small_for_the_classes_are_told():
    labels = np.arange(24) % 6
    with pytest.raises(
        DataError, match=r"0.15 of 24 rows are 4, .* of 6 classes. .*between 0.25 a"
    ):
        hold_out_rows(labels, 0.15, 0)
    with pytest.raises(DataError, match=r"of 6 classes. Add rows: 12 are needed at least.$"):
        hold_out_rows(labels[:11], 0.5, 0)
    kept, held = hold_out_rows(labels, 0.25, 0)
    assert (len(kept), len(held)) == (18, 6)


def test_one_group_cannot_be_held_out():
    with pytest.raises(DataError, match="one group"):
        hold_out_groups(np.zeros(5, np.int64), np.zeros(5, np.int64), 0.5, 0)


@pytest.mark.parametrize("seed", range(25))
def test_folds_cover_everything_and_tear_no_group_apart(seed: int):
    groups, labels = draw_groups(seed)
    names = np.unique(groups)
    num_folds = 2 + seed % (len(names) - 1)
    folds = deal_groups(groups, labels, num_folds, seed)
    assert {*folds} == set(range(num_folds))
    assert all(len({*folds[groups == name]}) == 1 for name in names)
    assert np.bincount(folds).max() <= len(groups) / num_folds + np.bincount(groups).max()


def test_folds_of_groups_hold_each_class_alike():
    groups = np.repeat(np.arange(60), 5)
    labels = groups % 3
    folds = deal_groups(groups, labels, 5, 0)
    assert np.bincount(folds).tolist() == [60] * 5
    assert all(np.bincount(labels[folds == fold]).tolist() == [20] * 3 for fold in range(5))


def test_as_many_folds_as_groups_leave_one_out_each():
    groups, labels = draw_groups(3)
    count = len(np.unique(groups))
    folds = deal_groups(groups, labels, count, 0)
    assert len({*zip(folds.tolist(), groups.tolist(), strict=True)}) == count
    with pytest.raises(DataError, match=rf"{count + 1} folds need as many groups"):
        deal_groups(groups, labels, count + 1, 0)


def test_many_small_groups_are_dealt_out_quickly():
    groups = np.arange(20_000) // 2
    folds = deal_groups(groups, groups % 10, 5, 0)
    assert np.abs(np.bincount(folds) - 4000).max() <= 20


@pytest.mark.parametrize("seed", range(5))
def test_folds_of_rows_are_stratified(seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat([0, 1, 2], [50, 25, 10]))
    folds = deal_rows(labels, 5, seed)
    for fold in range(5):
        assert np.bincount(labels[folds == fold]).tolist() == [10, 5, 2]
    with pytest.raises(DataError, match=r"11 folds need as many rows .*, and one has 10"):
        deal_rows(labels, 11, seed)


@pytest.mark.parametrize("seed", range(10))
def test_no_key_of_any_column_is_on_two_sides(seed: int):
    generator = np.random.default_rng(seed)
    speakers = [f"s{n}" for n in generator.integers(0, 60, 100)]
    sentences = [f"t{n}" for n in generator.integers(0, 90, 100)]
    groups = connect_groups([speakers, sentences])
    if len(np.unique(groups)) < 2:
        pytest.skip("everything hangs together")
    kept, held = hold_out_groups(groups, np.zeros(100, np.int64), 0.3, seed)
    for keys in (speakers, sentences):
        assert not {keys[row] for row in kept} & {keys[row] for row in held}
