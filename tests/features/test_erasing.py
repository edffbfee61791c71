"""Random erasing: how often, how large, where, and with what."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation import augment

COUNT = 2000


def erase(image: torch.Tensor, whole: bool = False, **settings: Any) -> torch.Tensor:
    options = AugmentationOptions(**settings)
    keys = np.zeros(COUNT, np.int64), np.arange(COUNT)
    return augment(image.expand(COUNT, -1, -1, -1), options, 0, *keys, whole_levels=whole)


def test_rectangles_fill_their_ranges():
    area_range, ratio_range = (0.05, 0.3), (0.5, 2.0)
    erased = erase(
        torch.ones(1, 1, 50, 80),
        erase_probability=0.6,
        erase_area_fraction=area_range,
        erase_aspect_ratio=ratio_range,
        erase_fill="zero",
    )
    holes = (erased == 0)[:, 0]
    hit = holes.flatten(1).any(1)
    assert abs(float(hit.float().mean()) - 0.6) < 0.03
    rows, columns = holes[hit].any(2), holes[hit].any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    assert torch.equal(holes[hit].sum((1, 2)), heights * widths)  # rectangles, without gaps
    areas, ratios = heights * widths / 4000, widths / heights
    assert 0.04 < float(areas.min()) < 0.06
    assert 0.28 < float(areas.max()) < 0.31
    assert abs(float(areas.mean()) - 0.175) < 0.01
    assert 0.45 < float(ratios.min()) < 0.55
    assert 1.8 < float(ratios.max()) < 2.2
    assert abs(float(ratios.log().mean())) < 0.05
    for line, sides in ((rows, heights), (columns, widths)):
        first = line.int().argmax(1) / (line.shape[1] - sides)
        assert float(first.min()) == 0
        assert float(first.max()) == 1
        assert abs(float(first.mean()) - 0.5) < 0.03


def test_a_rectangle_of_the_whole_image_fits():
    everything = {"erase_area_fraction": (1.0, 1.0), "erase_fill": "zero"}
    assert not erase(torch.ones(1, 1, 7, 30), erase_probability=1.0, **everything).any()


@pytest.mark.parametrize("whole", [False, True])
def test_the_mean_is_the_images_own(whole: bool):
    white = 255 if whole else 1
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, 3, 20, 20), generator=generator) * (white / 255)
    image[:, 1] *= 0.4
    image = image.round() if whole else image
    erased = erase(image, whole, erase_probability=1.0)
    holes = (erased != image).any(1)
    assert bool(holes.flatten(1).any(1).all())
    means = image.mean((2, 3))[0]
    for channel, mean in enumerate(means.tolist()):
        painted = erased[:, channel][holes]
        assert float((painted - mean).abs().max()) <= 0.51 * white / 255
        assert float(painted.max() - painted.min()) < 1e-6


@pytest.mark.parametrize("whole", [False, True])
def test_noise_is_even_and_new_for_every_pixel(whole: bool):
    image = torch.full((1, 3, 12, 12), -1.0)
    erased = erase(image, whole, erase_probability=1.0, erase_fill="noise")
    painted = erased[erased != -1.0]
    assert painted.numel() > 100_000
    white = 255 if whole else 1
    assert 0 <= float(painted.min()) < 0.001
    assert white * 0.999 < float(painted.max()) <= white
    assert abs(float(painted.mean()) / white - 0.5) < 0.005
    assert abs(float(painted.std()) / white - 12**-0.5) < 0.005
    if whole:
        assert len(painted.unique()) == 256
        assert torch.equal(painted, painted.round())
    else:
        assert len(painted.unique()) > 0.99 * painted.numel()
    both = (erased != -1.0)[:, :2].all(1)
    red, green = erased[:, 0][both], erased[:, 1][both]
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02


def test_what_is_not_erased_stays():
    image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    erased = erase(image, erase_probability=0.5, erase_fill="zero")
    assert torch.equal(torch.where(erased == 0, image, erased), image.expand(COUNT, -1, -1, -1))


def test_the_smallest_rectangle_is_a_pixel():
    tiny = {"erase_area_fraction": (0.01, 0.01), "erase_fill": "zero"}
    erased = erase(torch.ones(1, 1, 4, 3), erase_probability=1.0, **tiny)
    assert torch.equal((erased == 0).sum((1, 2, 3)), torch.ones(COUNT, dtype=torch.int64))
    assert len({tuple((image == 0).nonzero()[0].tolist()) for image in erased}) == 12
