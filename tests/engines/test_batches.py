"""Keyed batches: the order follows from seed and epoch, and no one else's generator is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_finetune.data import load_data
from hf_finetune.data.corrupt_mnist import Options
from hf_finetune.engines.batches import BatchView, KeyedSampler, make_loader, start_epoch


def keep_raw(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(np.array(value)) for name, value in batch.items()}


@pytest.fixture(scope="module")
def split() -> Any:
    return load_data(Options(root="samples/corruptmnist")).splits["validation"]


def order(seed: int, epoch: int, size: int = 100) -> list[int]:
    sampler = KeyedSampler(size, seed, shuffle=True)
    sampler.start_epoch(epoch)
    keys = list(sampler)
    assert {key[0] for key in keys} == {epoch}
    return [index for _, index in keys]


def test_the_order_follows_from_seed_and_epoch():
    assert order(0, 3) == order(0, 3)
    assert sorted(order(0, 3)) == list(range(100))
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_evaluation_keeps_the_order_of_the_split():
    assert [index for _, index in KeyedSampler(5, 0, shuffle=False)] == [0, 1, 2, 3, 4]


def test_a_view_answers_with_one_batch_of_columns(split: Any):
    batch = BatchView(split).__getitems__([(2, 5), (2, 0), (2, 699)])
    assert batch["image"].shape == (3, 28, 28)
    assert batch["image"].dtype == np.uint8
    assert batch["index"].tolist() == [5, 0, 699]
    assert batch["epoch"].tolist() == [2, 2, 2]
    assert batch["label"].tolist() == [split[5]["label"], split[0]["label"], split[699]["label"]]
    assert np.array_equal(batch["image"][0], np.array(split[5]["image"]))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_row_comes_once_an_epoch(num_workers: int, split: Any):
    loader = make_loader(split, keep_raw, 64, seed=1, shuffle=True, num_workers=num_workers)
    seen = []
    for epoch in range(2):
        start_epoch(loader, epoch)
        batches = list(loader)
        assert [len(batch["index"]) for batch in batches] == [64] * 10 + [60]
        assert all(bool((batch["epoch"] == epoch).all()) for batch in batches)
        seen.append(torch.cat([batch["index"] for batch in batches]).tolist())
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(700))
    assert seen[0] != seen[1]
    assert seen[0] == order(1, 0, 700)


def test_a_loader_draws_nothing_from_the_global_generator(split: Any):
    before = torch.get_rng_state()
    list(make_loader(split, keep_raw, 64, seed=1, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_accelerate_does_not_choose_the_epoch(split: Any):
    """It counts passes from 0 after a resume, and tells every sampler that will listen."""
    from accelerate import Accelerator

    loader = make_loader(split, keep_raw, 700, seed=1, shuffle=True)
    prepared = Accelerator(cpu=True).prepare(loader)
    start_epoch(loader, 7)
    assert next(iter(prepared))["index"].tolist() == order(1, 7, 700)


def test_only_our_loaders_can_be_told_the_epoch(split: Any):
    with pytest.raises(TypeError):
        start_epoch(DataLoader(BatchView(split)), 1)
