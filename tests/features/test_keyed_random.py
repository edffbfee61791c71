"""Keyed random numbers: the right ones, the same ones, and random enough."""

from __future__ import annotations

import numpy as np
import pytest

from hf_finetune.features.keyed_random import uniform

WORD = 2**64 - 1


def splitmix_finaliser(word):
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def expected(seed, epoch, index, draw):
    state = 0
    for key in (seed, draw, epoch, index):
        state = splitmix_finaliser((state + key + 0x9E3779B97F4A7C15) & WORD)
    return (state >> 11) / 2**53


def test_finaliser_of_these_tests_gives_the_published_sequence():
    # First outputs of SplitMix64 from seed 0, as java.util.SplittableRandom gives them.
    step = 0x9E3779B97F4A7C15
    outputs = [splitmix_finaliser(n * step & WORD) for n in (1, 2, 3)]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize(
    "keys", [(0, 0, 0, 0), (1, 2, 3, 4), (2**63, 7, 59_999, 1), (-5, 0, 2**40, 3)]
)
def test_numbers_are_the_ones_of_whole_number_arithmetic(keys):
    seed, epoch, index, draw = keys
    number = uniform(seed, np.array([epoch]), np.array([index]), draw)
    assert number.dtype == np.float64
    assert number.tolist() == [expected(seed, epoch, index, draw)]


def test_a_number_does_not_depend_on_its_batch():
    indices = np.arange(100)
    epochs = indices % 3
    together = uniform(7, epochs, indices, 2)
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(uniform(7, epochs[order], indices[order], 2), together[order])
    assert [uniform(7, epochs[[i]], indices[[i]], 2)[0] for i in indices] == together.tolist()


def test_every_key_counts():
    epochs, indices = np.zeros(1000, dtype=np.int64), np.arange(1000)
    base = uniform(0, epochs, indices, 0)
    assert len(np.unique(base)) == 1000
    for other in (
        uniform(1, epochs, indices, 0),
        uniform(0, epochs + 1, indices, 0),
        uniform(0, epochs, indices + 1000, 0),
        uniform(0, epochs, indices, 1),
    ):
        assert not np.isin(base, other).any()


def test_swapped_keys_are_other_keys():
    a, b = np.array([3]), np.array([8])
    assert uniform(0, a, b, 0) != uniform(0, b, a, 0)
    assert uniform(1, a, b, 2) != uniform(2, a, b, 1)


def test_numbers_are_uniform():
    numbers = uniform(3, np.full(200_000, 5), np.arange(200_000), 1)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    chi_squared = ((counts - 4000) ** 2 / 4000).sum()
    assert 20 < chi_squared < 95  # 49 degrees of freedom: both ends are 1 in 10,000


@pytest.mark.parametrize("neighbour", ["index", "epoch", "draw", "seed"])
def test_neighbouring_keys_give_uncorrelated_numbers(neighbour):
    epochs, indices = np.full(50_000, 4), np.arange(50_000)
    numbers = uniform(9, epochs, indices, 0)
    others = {
        "index": uniform(9, epochs, indices + 1, 0),
        "epoch": uniform(9, epochs + 1, indices, 0),
        "draw": uniform(9, epochs, indices, 1),
        "seed": uniform(10, epochs, indices, 0),
    }[neighbour]
    assert abs(np.corrcoef(numbers, others)[0, 1]) < 4 / np.sqrt(50_000)
