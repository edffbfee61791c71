"""Resizing against Pillow itself, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from hf_finetune.features.resizing import FILTERS, resize

SIZES = [
    ((28, 28), (224, 224)),  # float32 sums exactly with bilinear weights
    ((32, 32), (224, 224)),  # nothing but float64 does
    ((28, 28), (28, 28)),
    ((28, 28), (28, 40)),  # one axis only
    ((28, 28), (40, 28)),
    ((64, 48), (17, 31)),  # shrunk
    ((60, 20), (30, 19)),  # height shrunk by far more than width: Pillow 13 takes rows first
    ((60, 20), (7, 50)),
    ((60, 60), (40, 30)),  # width shrunk more: columns first
    ((11, 60), (29, 7)),
    ((1, 1), (5, 3)),
    ((7, 5), (1, 1)),
    ((90, 120), (33, 47)),  # too large for products
]


def picture(height, width, seed=0):
    """Waves and hard edges, so that rounding and clipping both matter."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 127 + 120 * np.sin(rows / 3 + seed) * np.cos(columns / 4)
    edges = random.integers(0, 2, (height, width)) * 255
    return np.where(random.random((height, width)) < 0.5, waves, edges).astype(np.uint8)


def by_pillow(image, height, width, resample):
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_whole_levels_equal_pillow_in_every_pixel(old, new, resample):
    images = np.stack([picture(*old, seed) for seed in range(3)])
    resized = resize(torch.from_numpy(images).float(), *new, resample, whole_levels=True)
    assert resized.dtype == torch.float32
    expected = np.stack([by_pillow(image, *new, resample) for image in images])
    assert np.array_equal(resized.numpy(), expected)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(("old", "new"), SIZES)
def test_floats_are_not_rounded(old, new, resample):
    image = picture(*old).astype(np.float32) / 3
    resized = resize(torch.from_numpy(image)[None], *new, resample, whole_levels=False)[0]
    assert np.allclose(resized.numpy(), by_pillow(image, *new, resample), atol=1e-3)


@pytest.mark.parametrize("size", [224, 256])
def test_a_large_batch_keeps_its_order(size):
    images = np.stack([picture(28, 28, seed) for seed in range(24)]).reshape(8, 3, 28, 28)
    resized = resize(torch.from_numpy(images).float(), size, size, 3, whole_levels=True)
    assert resized.shape == (8, 3, size, size)
    for n, c in ((0, 0), (3, 1), (7, 2)):
        assert np.array_equal(resized[n, c].numpy(), by_pillow(images[n, c], size, size, 3))


def test_the_input_stays():
    images = torch.from_numpy(picture(12, 12)).float()[None]
    before = images.clone()
    resize(images, 30, 8, 2, whole_levels=True)
    assert torch.equal(images, before)


def test_every_filter_of_the_models_at_hand_is_known():
    assert {filter_.name for filter_ in FILTERS} == {
        "NEAREST",
        "BOX",
        "BILINEAR",
        "HAMMING",
        "BICUBIC",
        "LANCZOS",
    }


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("whole_levels", [True, False])
@pytest.mark.parametrize("old", [(28, 28), (28, 20), (20, 36), (90, 70)])
def test_a_window_is_what_a_crop_leaves(resample, whole_levels, old):
    images = torch.randint(0, 256, (2, 3, *old), generator=torch.Generator().manual_seed(0)).float()
    window = (slice(3, 31), slice(8, 28))  # 28 rows: as many as some images had before
    whole = resize(images, 36, 36, resample, whole_levels=whole_levels)
    part = resize(images, 36, 36, resample, whole_levels=whole_levels, window=window)
    assert part.shape == (2, 3, 28, 20)
    assert torch.equal(part, whole[..., 3:31, 8:28]) or not whole_levels
    assert torch.allclose(part, whole[..., 3:31, 8:28], atol=1e-3)
