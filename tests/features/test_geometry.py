"""Crops and flips: which pixels are taken, and how often."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation import augment
from hf_finetune.features.draws import Draw
from hf_finetune.features.geometry import Crops, rectangle_mask, transform
from hf_finetune.features.keyed_random import uniform


def keys(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(count, 3), np.arange(count)


def ramps(count: int, height: int, width: int) -> torch.Tensor:
    """Images whose channels are x and y (-1 … 1 over the image, at pixel centres) and 1."""
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    planes = [x.expand(height, -1), y[:, None].expand(-1, width), torch.ones(height, width)]
    return torch.stack(planes).expand(count, -1, -1, -1)


def test_a_crop_is_enlarged_to_the_image():
    crops = Crops(np.array([[0.5, 0.25]]), np.array([[0.3, -0.6]]))
    none = np.zeros(1)
    cropped = transform(ramps(1, 32, 48), none, none + 1, np.zeros((1, 2)), crops)[0]
    x, y, _ = ramps(1, 32, 48)[0]
    torch.testing.assert_close(cropped[0], 0.3 + 0.5 * x, atol=1e-5, rtol=0)
    torch.testing.assert_close(cropped[1], -0.6 + 0.25 * y, atol=1e-5, rtol=0)


def test_the_crop_comes_before_the_turn():
    """What lay right of the crop's middle comes to lie above the image's."""
    crops = Crops(np.array([[0.5, 0.5]]), np.array([[0.2, 0.1]]))
    turned = transform(ramps(1, 33, 33), np.array([np.pi / 2]), np.ones(1), np.zeros((1, 2)), crops)
    x, y, _ = ramps(1, 33, 33)[0]
    torch.testing.assert_close(turned[0, 0], 0.2 - 0.5 * y, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[0, 1], 0.1 + 0.5 * x, atol=1e-5, rtol=0)


def measure_crops(options: AugmentationOptions, height: int, width: int) -> np.ndarray:
    """(width, height, x, y) of 2,000 crops as parts of the image, from ramps: `[N, 4]`."""
    cropped = augment(ramps(2000, height, width), options, 0, *keys(2000)).double()
    assert float(cropped[:, 2].min()) > 0.9999  # no black at the edges
    h, w = height // 2, width // 2
    sides = [
        (cropped[:, 0, h, w + 1] - cropped[:, 0, h, w - 1]) / (4 / width),
        (cropped[:, 1, h + 1, w] - cropped[:, 1, h - 1, w]) / (4 / height),
    ]
    middle = cropped[:, :2, h, w] - torch.stack(sides, 1) * ramps(1, height, width)[0, :2, h, w]
    return np.asarray(torch.cat([torch.stack(sides, 1), middle], 1).numpy())


def test_crops_fill_their_ranges_and_stay_inside():
    options = AugmentationOptions(crop_area_fraction=(0.35, 1.0), crop_aspect_ratio=(0.8, 1.25))
    found = measure_crops(options, 32, 32)
    sides, centres = found[:, :2], found[:, 2:]
    area, aspect = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert 0.349 < area.min() < 0.36
    assert 0.99 < area.max() < 1.001
    assert abs(area.mean() - 0.675) < 0.02
    assert 0.799 < aspect.min() < 0.81
    assert 1.24 < aspect.max() < 1.251
    assert abs(np.log(aspect).mean()) < 0.02
    assert (np.abs(centres) + sides < 1.0001).all()
    room = 1 - sides
    place = (centres / room)[room.min(1) > 0.05]
    for axis in (0, 1):
        assert place[:, axis].min() < -0.98
        assert place[:, axis].max() > 0.98
        assert abs(place[:, axis].mean()) < 0.05
    assert abs(np.corrcoef(place.T)[0, 1]) < 0.1


def test_the_aspect_ratio_gives_way_and_the_area_does_not():
    """Half the area of a long strip can't be nearly square."""
    options = AugmentationOptions(crop_area_fraction=(0.5, 0.5), crop_aspect_ratio=(0.75, 4 / 3))
    sides = measure_crops(options, 12, 96)[:, :2]
    np.testing.assert_allclose(sides.prod(1), 0.5, atol=1e-4)
    np.testing.assert_allclose(sides[:, 1], 1.0, atol=1e-4)


def test_a_crop_leaves_the_rotation_as_it_was():
    """The crop's own numbers: two points still lie in the direction that the turn gave them."""
    images = ramps(50, 41, 41)
    turned = AugmentationOptions(rotation_degrees=90.0)
    both = AugmentationOptions(rotation_degrees=90.0, crop_area_fraction=(0.4, 0.4))
    slopes = []
    for options in (turned, both):
        middle = augment(images, options, 0, *keys(50))[:, 0, 19:22, 19:22]
        across, down = middle[:, 1, 2] - middle[:, 1, 0], middle[:, 2, 1] - middle[:, 0, 1]
        slopes.append(torch.atan2(down, across))
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("fill", "mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("shape", [(1, 9, 13), (3, 8, 8)])
def test_pad_and_crop_is_numpys(fill: str, mode: str, shape: tuple[int, ...]):
    pixels, count = 3, 500
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.float32)
    options = AugmentationOptions(pad_crop_pixels=pixels, pad_crop_fill=fill)
    epochs, indices = keys(count)
    result = augment(torch.from_numpy(images), options, 7, epochs, indices).numpy()
    height, width = shape[1:]
    seen = set()
    for image, found, index in zip(images, result, indices, strict=True):
        left, top = (
            int(7 * uniform(7, [3], [index], draw)[0])
            for draw in (Draw.PAD_CROP_X, Draw.PAD_CROP_Y)
        )
        padded = np.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels)), mode=mode)
        assert np.array_equal(found, padded[:, top : top + height, left : left + width])
        seen.add((left, top))
    assert len(seen) == 49


def test_flips_mirror_as_often_as_asked():
    image = torch.arange(12.0).reshape(1, 1, 3, 4)
    options = AugmentationOptions(horizontal_flip=0.3, vertical_flip=0.8)
    flipped = augment(image.expand(4000, -1, -1, -1), options, 0, *keys(4000))
    ways = {
        (False, False): image,
        (True, False): image.flip(-1),
        (False, True): image.flip(-2),
        (True, True): image.flip(-1, -2),
    }
    for (across, down), expected in ways.items():
        frequency = float((flipped == expected).flatten(1).all(1).float().mean())
        likely = (0.3 if across else 0.7) * (0.8 if down else 0.2)
        assert abs(frequency - likely) < 0.03


def test_a_sure_flip_always_and_an_impossible_one_never_happens():
    image = torch.arange(12.0).reshape(1, 1, 3, 4).expand(500, -1, -1, -1)
    options = AugmentationOptions(horizontal_flip=1.0)
    assert torch.equal(augment(image, options, 0, *keys(500)), image.flip(-1))


def test_a_rectangle_is_cut_off_at_the_images_edge():
    mask = rectangle_mask(np.array([[1, 0], [-2, 2]]), np.array([[2, 1], [3, 9]]), 4, 5)
    expected = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    expected[0, 0, 0, 1:3] = True
    expected[1, 0, 2:, 0] = True
    assert torch.equal(mask, expected)
