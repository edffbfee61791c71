"""Batches by length: little padding, every row once, the same after a resume; two processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, skip_first_batches
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from hf_finetune.data.tables import build_file_dataset
from hf_finetune.engines.batches import make_loader, start_epoch
from hf_finetune.engines.length_batches import LengthBatches, batches_by_length, padding_share
from hf_finetune.evaluation.prediction import Predictor, average_windows
from hf_finetune.features import AudioOptions

LENGTHS = np.random.default_rng(0).gamma(4, 0.1, 503).round(2)


def sampler(lengths=LENGTHS, batch_size=8, seed=0, shuffle=True, **how) -> LengthBatches:
    return LengthBatches(lengths, batch_size, seed, shuffle=shuffle, window_batches=10, **how)


def keys_of(batches: LengthBatches, epoch: int) -> list[list[tuple[int, int]]]:
    batches.start_epoch(epoch)
    return list(batches)


MODES = [{}, {"exact": True}, {"exact": True, "rounding": 0.05}, {"shuffle": False}]


@pytest.mark.parametrize("how", MODES)
def test_every_row_comes_once_an_epoch(how):
    batches = sampler(**how)
    for epoch in range(3):
        keys = keys_of(batches, epoch)
        assert len(keys) == len(batches)
        assert max(map(len, keys)) == 8
        assert {key[0] for batch in keys for key in batch} == {epoch}
        assert sorted(key[1] for batch in keys for key in batch) == list(range(503))


@pytest.mark.parametrize("how", MODES[:3])
def test_the_order_follows_from_seed_and_epoch(how):
    def order(seed: int, epoch: int) -> list[list[int]]:
        return [[key[1] for key in batch] for batch in keys_of(sampler(seed=seed, **how), epoch)]

    assert order(0, 3) == order(0, 3)
    orders = {str(order(seed, epoch)) for seed in range(2) for epoch in range(3)}
    assert len(orders) == 6
    rows = {str(sorted(map(sorted, order(0, epoch)))) for epoch in range(3)}
    assert len(rows) == 3  # other rows share a batch


def test_batches_are_shuffled_and_not_left_by_length():
    longest = [LENGTHS[batch].max() for batch in sampler().order()]
    ranks = np.argsort(np.argsort(longest))
    assert abs(np.corrcoef(ranks, np.arange(len(ranks)))[0, 1]) < 0.35


def test_evaluation_begins_with_the_longest():
    longest = [LENGTHS[batch].max() for batch in sampler(shuffle=False).order()]
    assert longest == sorted(longest, reverse=True)
    assert longest[0] == LENGTHS.max()


def test_windows_keep_little_padding():
    random = np.array_split(np.random.default_rng(1).permutation(503), 63)
    shares = [padding_share(LENGTHS, batches) for batches in (random, sampler().order())]
    assert shares[0] > 0.4
    assert shares[1] < 0.15


def test_padding_share_counts_what_is_given():
    lengths = np.array([1.0, 2.0, 3.0, 4.0])
    assert padding_share(lengths, [np.array([0, 3]), np.array([1, 2])]) == pytest.approx(4 / 14)
    assert padding_share(lengths, [np.array([n]) for n in range(4)]) == 0


def test_padding_share_counts_what_is_filled_up_to_a_common_width():
    lengths = np.array([1.0, 2.0, 3.0, 3.0])
    pairs = [np.array([0, 1]), np.array([2, 3])]
    assert padding_share(lengths, pairs, lambda _: 4.0) == pytest.approx(5 / 14)
    even = [np.array([2, 3])]  # of one length: not filled up
    assert padding_share(lengths, even, lambda _: 4.0) == 0


def test_the_plan_says_how_much_is_padding():
    lengths = np.array([1.0, 2, 3, 4])
    batches = LengthBatches(lengths, 2, 0, shuffle=False)
    assert batches.describe() == "batches of similar length, 17% padding"
    assert batches.describe(lambda _: 5.0) == "batches of similar length, 50% padding"
    equal = LengthBatches(np.array([1.0, 2, 2, 2, 3, 4]), 2, 0, shuffle=True, exact=True)
    assert equal.describe() == "batches of equal length, 1.2 clips on average, 0% padding"
    assert sampler(exact=True, rounding=0.1).describe() != sampler(exact=True).describe()


def test_exact_batches_have_equal_lengths():
    for batch in sampler(exact=True).order():
        assert len(set(LENGTHS[batch])) == 1
    rounded = sampler(exact=True, rounding=0.05)
    assert len(rounded) < len(sampler(exact=True))
    for batch in rounded.order():
        assert np.ptp(LENGTHS[batch]) < 0.05


def test_spoken_digits_are_padded_as_little_as_promised(shared_data):
    from hf_finetune.features.audio_decoding import read_header

    files = sorted((shared_data / "fsdd" / "recordings").glob("*.wav"))
    headers = [read_header(path) for path in files]
    seconds = np.array([header.num_frames / header.sampling_rate_hz for header in headers])
    random = np.random.default_rng(0).permutation(len(seconds))
    batches = [random[start : start + 16] for start in range(0, len(random), 16)]
    assert padding_share(seconds, batches) == pytest.approx(0.42, abs=0.01)
    by_length = LengthBatches(seconds, 16, 0, shuffle=True, window_batches=50)
    assert padding_share(seconds, by_length.order()) == pytest.approx(0.05, abs=0.01)


# Under accelerate


@pytest.mark.parametrize("how", MODES[:3])
def test_two_processes_share_the_batches_evenly(how):
    batches = sampler(lengths=LENGTHS[:490], **how)
    everything = keys_of(batches, 1)
    ranks = [list(BatchSamplerShard(batches, 2, rank)) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(BatchSamplerShard(batches, 2, 0))
    dealt = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert dealt[: len(everything)] == everything
    assert dealt[len(everything) :] == everything[: len(dealt) - len(everything)]


@pytest.mark.parametrize("how", MODES[:3])
@pytest.mark.parametrize("rows", [480, 503])
def test_processes_learn_together_what_one_would_alone(how, rows):
    """A step of three processes with batches of 4 is a step of one with batches of 12."""
    lengths = LENGTHS[:rows]
    alone = sampler(lengths, 12, **how)
    together = sampler(lengths, 4, num_processes=3, **how)
    alone.start_epoch(2)
    together.start_epoch(2)
    batches = together.order()
    assert len(batches) == len(together)
    assert max(map(len, batches)) == 4
    assert sorted(np.concatenate(batches)) == list(range(rows))
    whole = [batch for batch in alone.order() if len(batch) >= 3]
    steps = [batches[start : start + 3] for start in range(0, 3 * len(whole), 3)]
    for batch, step in zip(whole, steps, strict=True):
        assert sorted(np.concatenate(step)) == sorted(batch)
        longest = [lengths[part].max() for part in step]
        assert np.ptp(longest) <= np.ptp(lengths[batch])
    assert len(whole) > 10


def sound_split(count: int = 40) -> Dataset:
    """Undecoded clips of unequal lengths; there are no files behind them."""
    frames = np.random.default_rng(3).integers(100, 4000, count)
    clips = [
        {"path": f"{n}.wav", "bytes": None, "num_frames": int(f), "sampling_rate_hz": 8000}
        for n, f in enumerate(frames)
    ]
    labels = [n % 2 for n in range(count)]
    ids = [str(n) for n in range(count)]
    return build_file_dataset({"audio": clips}, [{}] * count, labels, ("a", "b"), {"id": ids})


def collate(raw_batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Lengths in place of features; each clip in as many windows as it has thousands of frames."""
    frames = [clip["num_frames"] for clip in raw_batch["audio"]]
    windows = [1 + f // 1000 for f in frames]
    example = torch.repeat_interleave(torch.arange(len(frames)), torch.tensor(windows))
    return {
        "frames": torch.tensor(frames)[example].float(),
        "number": torch.cat([torch.arange(w) for w in windows]).float(),
        "example": example,
        "labels": torch.tensor(raw_batch["label"]),
        "index": torch.tensor(raw_batch["index"]),
    }


def loader_of(split: Dataset, training: bool, num_workers: int = 0, **how: Any) -> DataLoader[Any]:
    batches = batches_by_length(split, AudioOptions(**how), 6, 5, training)
    return make_loader(
        split, collate, 6, seed=5, shuffle=training, num_workers=num_workers, batches=batches
    )


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batches", ["by_length", "equal_length"])
def test_a_resumed_epoch_goes_on_where_it_stopped(batches, num_workers):
    loader = loader_of(sound_split(), True, num_workers, batches=batches)
    prepared = Accelerator(cpu=True).prepare(loader)
    orders = []
    for epoch in (4, 5):
        start_epoch(loader, epoch)
        whole = [batch["index"].tolist() for batch in prepared]
        assert len(whole) == len(loader)
        assert sorted(index for batch in whole for index in batch) == list(range(40))
        rest = [batch["index"].tolist() for batch in skip_first_batches(prepared, 3)]
        assert rest == whole[3:]
        orders.append(whole)
    assert orders[0] != orders[1]


def test_lengths_come_from_the_headers_up_to_the_cut():
    split = sound_split()
    order = batches_by_length(split, AudioOptions(), 6, 0, training=False).order()
    frames = np.array([clip["num_frames"] for clip in split["audio"]])
    flat = np.concatenate(order)
    assert (np.diff(frames[flat]) <= 0).all()
    cut = batches_by_length(split, AudioOptions(max_seconds=0.1), 6, 0, training=False).order()
    longer = np.flatnonzero(frames >= 800)
    assert np.concatenate(cut)[: len(longer)].tolist() == longer.tolist()  # equally long now
    whole = AudioOptions(max_seconds=0.1, evaluation_windows="whole")
    again = batches_by_length(split, whole, 6, 0, training=False).order()
    assert np.array_equal(np.concatenate(again), flat)


def test_rows_are_taken_as_they_come_where_that_is_asked_for():
    assert batches_by_length(sound_split(), AudioOptions(batches="random"), 6, 0, True) is None
    loader = loader_of(sound_split(), False, batches="random")
    assert next(iter(loader))["index"].tolist() == [0, 1, 2, 3, 4, 5]
    images = Dataset.from_dict({"image": [[0]], "label": [0]})
    assert batches_by_length(images, AudioOptions(), 6, 0, True) is None


# Windows


def test_windows_are_averaged():
    logits = torch.tensor([[1.0, 0], [2, 4], [4, 8], [6, 0], [5, 5]])
    example = torch.tensor([0, 1, 1, 1, 2])
    expected = torch.tensor([[1.0, 0], [4, 4], [5, 5]])
    assert torch.equal(average_windows(logits, example, 3), expected)
    one_each = average_windows(logits, torch.arange(5), 5)
    assert torch.equal(one_each, logits)


class Lengths(nn.Module):
    """Answers with a clip's frames, and with a number that differs between its windows."""

    def forward(self, frames: torch.Tensor, number: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.stack([frames, number], 1))


def test_predictions_have_a_row_for_each_clip_in_the_splits_order():
    split = sound_split()
    predictor = Predictor("test", split, loader_of(split, False), ())
    predictions = predictor.predict(Lengths(), Accelerator(cpu=True))
    frames = np.array([clip["num_frames"] for clip in split["audio"]])
    assert predictions.logits[:, 0].tolist() == frames.tolist()
    assert predictions.logits[:, 1].tolist() == (frames // 1000 / 2).tolist()
    assert predictions.labels.tolist() == [n % 2 for n in range(40)]
