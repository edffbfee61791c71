"""Mixup and cutmix, from the choice of partners to the model batch."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hf_finetune.data import load_data
from hf_finetune.data.corrupt_mnist import Options
from hf_finetune.engines.batches import BatchView, make_loader, start_epoch
from hf_finetune.features import (
    AugmentationOptions,
    FeatureOptions,
    collator_for,
    mixing,
    partners_for,
)
from hf_finetune.features.draws import Keys
from hf_finetune.features.mixing import Partners, mix

GREY = SimpleNamespace(
    do_resize=False,
    do_rescale=True,
    rescale_factor=1 / 255,
    do_normalize=True,
    image_mean=[0.25],
    image_std=[0.5],
)
COLOUR = SimpleNamespace(**{**vars(GREY), "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3})
MOVED = {"rotation_degrees": 30.0, "erase_probability": 0.5, "brightness_fraction": 0.2}


def keys(count: int, epoch: int = 2) -> Keys:
    return Keys(5, np.full(count, epoch), np.arange(count))


def mix_plain(count: int, size: tuple[int, int] = (12, 10), **settings: float) -> Any:
    """Every image, black, is mixed with a white one; labels 0 and 1."""
    values = torch.zeros(2 * count, 1, *size)
    values[count:] = 1
    labels = (torch.arange(2 * count) >= count).long()
    options = AugmentationOptions(**settings)
    return mix(values, labels, np.arange(count), options, keys(count))


@pytest.fixture(scope="module")
def split() -> Any:
    """60 rows that are scattered over a larger table."""
    rows = load_data(Options(root="samples/corruptmnist")).splits["train"]
    return rows.select(np.random.default_rng(0).permutation(len(rows))[:60])


def features(**settings: Any) -> FeatureOptions:
    return FeatureOptions(augmentation=AugmentationOptions(**settings))


def read(split: Any, indices: Any, options: FeatureOptions, processor: Any = GREY) -> Any:
    """Training's model batch of some rows in epoch 3."""
    view = BatchView(split, partners_for(options, 5, len(split), training=True))
    return collator_for(processor, options, 5, True)(view.__getitems__([(3, i) for i in indices]))


def test_partners_are_other_rows_of_the_split_all_as_likely():
    count = 30
    partners = Partners(AugmentationOptions(mixup_alpha=1.0), 0, count)
    found = np.zeros((count, count), int)
    for epoch in range(300):
        places, rows = partners(np.full(count, epoch), np.arange(count))
        assert np.array_equal(places, np.arange(count))
        assert rows.min() >= 0
        assert rows.max() < count
        found[places, rows] += 1
    assert not found.diagonal().any()
    others = found[~np.eye(count, dtype=bool)]
    assert others.sum() == 9000
    assert stats.chisquare(others).pvalue > 0.01
    assert stats.chisquare(found.sum(0)).pvalue > 0.01


def test_partners_do_not_depend_on_the_batch():
    partners = Partners(AugmentationOptions(mixup_alpha=1.0, mix_probability=0.4), 0, 50)
    epochs, indices = np.arange(50) % 3, np.arange(50)
    places, rows = partners(epochs, indices)
    assert 10 < len(places) < 30
    partner_of = dict(zip(indices[places].tolist(), rows.tolist(), strict=True))
    for part in (slice(0, 1), slice(7, 20), slice(20, None)):
        places, rows = partners(epochs[part], indices[part])
        found = dict(zip(indices[part][places].tolist(), rows.tolist(), strict=True))
        first, last = indices[part][[0, -1]]
        assert found == {i: row for i, row in partner_of.items() if first <= i <= last}


def test_the_only_row_is_its_own_partner():
    places, rows = Partners(AugmentationOptions(mixup_alpha=1.0), 0, 1)(
        np.arange(9), np.zeros(9, int)
    )
    assert places.tolist() == list(range(9))
    assert rows.tolist() == [0] * 9


@pytest.mark.parametrize("alpha", [0.4, 1.0, 4.0])
def test_mixup_blends_in_a_ratio_of_the_beta_distribution(alpha: float):
    mixed = mix_plain(1500, (2, 3), mixup_alpha=alpha)
    ratios = mixed["mix_ratio"]
    assert ratios.dtype == torch.float32
    expected = 1 - ratios[:, None, None, None].expand(-1, 1, 2, 3)
    torch.testing.assert_close(mixed["pixel_values"], expected, atol=1e-6, rtol=0)
    assert stats.kstest(ratios.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert mixed["labels"].tolist() == [0] * 1500
    assert mixed["mixed_labels"].tolist() == [1] * 1500


def test_cutmix_pastes_a_rectangle_and_counts_what_it_pasted():
    mixed = mix_plain(1500, (24, 30), cutmix_alpha=1.0)
    pasted = mixed["pixel_values"][:, 0]
    assert pasted.unique().tolist() == [0, 1]
    part = pasted.mean((1, 2))
    torch.testing.assert_close(mixed["mix_ratio"], 1 - part, atol=1e-6, rtol=0)
    rows, columns = pasted.any(2).sum(1), pasted.any(1).sum(1)
    assert torch.equal(rows * columns, pasted.sum((1, 2)).long())
    # Where nothing sticks out, it has the image's shape.
    inside = (pasted[:, [0, -1]].sum((1, 2)) + pasted[:, :, [0, -1]].sum((1, 2)) == 0) & (rows > 7)
    assert int(inside.sum()) > 100
    ratio = rows[inside] / columns[inside]
    assert 0.7 < float(ratio.min()) < float(ratio.max()) < 0.9  # 24 / 30 in whole pixels
    middle = (pasted * torch.arange(30)).sum((1, 2))[inside] / pasted.sum((1, 2))[inside]
    assert abs(float(middle.mean()) - 14.5) < 0.7
    # A centre anywhere cuts off, of a side s, s^2/4 on average: 1/2 - 1/5 + 1/48 of the area stay.
    assert abs(float(part.mean()) - 0.321) < 0.03
    assert float(part.max()) > 0.8


def test_both_share_the_examples_as_asked():
    def kinds(**settings: float) -> torch.Tensor:
        mixed = mix_plain(2000, mixup_alpha=1.0, cutmix_alpha=1.0, **settings)
        values = mixed["pixel_values"].flatten(1)
        return (values.amin(1) < values.amax(1)) | (values.amax(1) % 1 == 0)  # cut, not blended

    assert abs(float(kinds().float().mean()) - 0.5) < 0.04
    assert abs(float(kinds(cutmix_fraction=0.2).float().mean()) - 0.2) < 0.04
    assert bool(kinds(cutmix_fraction=1.0).all())


def test_switching_cutmix_on_leaves_what_mixup_still_does():
    alone, both = (mix_plain(200, mixup_alpha=1.0, cutmix_alpha=alpha) for alpha in (0.0, 1.0))
    blended = (both["pixel_values"].flatten(1).amax(1) % 1 != 0).nonzero()[:, 0]
    assert 60 < len(blended) < 140
    assert torch.equal(both["mix_ratio"][blended], alone["mix_ratio"][blended])


def test_large_images_are_mixed_in_blocks_that_do_not_show(monkeypatch: pytest.MonkeyPatch):
    whole = mix_plain(33, mixup_alpha=1.0, cutmix_alpha=1.0)
    monkeypatch.setattr(mixing, "_BLOCK_PIXELS", 5 * 120)
    for name, value in mix_plain(33, mixup_alpha=1.0, cutmix_alpha=1.0).items():
        assert torch.equal(value, whole[name])


@pytest.mark.parametrize("processor", [GREY, COLOUR])
def test_the_partner_is_augmented_by_its_own_key(split: Any, processor: Any):
    """A mixed image is made of two that the model would see unmixed in the same epoch."""
    mixed = read(split, range(60), features(**MOVED, mixup_alpha=1.0), processor)
    _, rows = Partners(AugmentationOptions(mixup_alpha=1.0), 5, 60)(np.full(60, 3), np.arange(60))
    plain = read(split, range(60), features(**MOVED), processor)
    ratio = mixed["mix_ratio"][:, None, None, None]
    values = plain["pixel_values"]
    expected = ratio * values + (1 - ratio) * values[rows]
    torch.testing.assert_close(mixed["pixel_values"], expected, atol=1e-5, rtol=0)
    assert torch.equal(mixed["labels"], plain["labels"])
    assert torch.equal(mixed["mixed_labels"], plain["labels"][rows])
    assert mixed["index"].tolist() == list(range(60))
    assert mixed["pixel_values"].shape == (60, len(processor.image_mean), 28, 28)


def test_what_is_not_mixed_keeps_its_bits(split: Any):
    mixed = read(split, range(60), features(**MOVED, mixup_alpha=1.0, mix_probability=0.4))
    plain = read(split, range(60), features(**MOVED))
    same = (mixed["pixel_values"] == plain["pixel_values"]).flatten(1).all(1)
    assert torch.equal(same, mixed["mix_ratio"] == 1)
    assert 15 < int((~same).sum()) < 35
    assert torch.equal(mixed["mixed_labels"][same], mixed["labels"][same])


@pytest.mark.parametrize("processor", [GREY, COLOUR])
def test_an_example_does_not_depend_on_its_batch(split: Any, processor: Any):
    options = features(**MOVED, mixup_alpha=0.4, cutmix_alpha=1.0, mix_probability=0.7)
    together = read(split, range(60), options, processor)
    for indices in ([17], [59, 3, 17], list(range(40, 0, -1))):
        batch = read(split, indices, options, processor)
        assert set(batch) == {"pixel_values", "labels", "mixed_labels", "mix_ratio", "index"}
        for name, value in batch.items():
            assert torch.equal(value, together[name][indices]), name
    assert batch["mixed_labels"].dtype == torch.int64


def test_grey_images_shown_in_three_channels_stay_a_view(split: Any):
    processor = SimpleNamespace(**{**vars(GREY), "image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    values = read(split, range(9), features(mixup_alpha=1.0), processor)["pixel_values"]
    assert values.shape == (9, 3, 28, 28)
    assert values.stride(1) == 0


def test_images_of_unequal_sizes_are_mixed_once_they_are_resized():
    generator = np.random.default_rng(0)
    raw_batch = {
        "image": [generator.integers(0, 256, (12 + 4 * i, 30, 3), np.uint8) for i in range(4)],
        "label": np.array([0, 1, 2, 3]),
        "epoch": np.zeros(4, np.int64),
        "index": np.array([0, 1, 3, 2]),
        "mixed_into": np.array([0, 1]),
    }
    sized = SimpleNamespace(
        **{**vars(COLOUR), "do_resize": True, "size": {"height": 20, "width": 20}, "resample": 2}
    )
    batch = collator_for(sized, features(mixup_alpha=1.0), 0, True)(raw_batch)
    assert batch["pixel_values"].shape == (2, 3, 20, 20)
    assert batch["labels"].tolist() == [0, 1]
    assert batch["mixed_labels"].tolist() == [2, 3]


def test_evaluation_never_mixes(split: Any):
    assert partners_for(features(mixup_alpha=1.0), 0, 60, training=False) is None
    assert partners_for(features(), 0, 60, training=True) is None
    assert partners_for(features(mixup_alpha=1.0, mix_probability=0.0), 0, 60, True) is None
    raw_batch = BatchView(split, Partners(AugmentationOptions(mixup_alpha=1.0), 0, 60))
    with pytest.raises(ValueError, match="doesn't augment"):
        collator_for(GREY, features(), 0, False)(raw_batch.__getitems__([(0, 1)]))


def test_a_loader_mixes_anew_in_each_epoch(split: Any):
    options = features(mixup_alpha=1.0)
    partners = partners_for(options, 5, 60, training=True)
    assert pickle.loads(pickle.dumps(partners)) == partners
    collator = collator_for(GREY, options, 5, True)
    loader = make_loader(split, collator, 16, seed=5, shuffle=True, partners=partners)
    seen = []
    for epoch in (3, 4):
        start_epoch(loader, epoch)
        batches = list(loader)
        assert [len(batch["mix_ratio"]) for batch in batches] == [16, 16, 16, 12]
        order = torch.cat([batch["index"] for batch in batches]).argsort()
        seen.append(torch.cat([batch["mix_ratio"] for batch in batches])[order])
    expected = read(split, range(60), options)
    assert torch.equal(seen[0], expected["mix_ratio"])
    assert not torch.equal(seen[0], seen[1])
