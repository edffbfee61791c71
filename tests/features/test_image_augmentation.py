"""Augmentation: where pixels go, how far, and that only the keys decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation import augment, changes_images
from hf_finetune.features.geometry import transform

EVERYTHING = AugmentationOptions(rotation_degrees=30.0, shift_fraction=0.2, scale_ratio=1.5)


def move(image, degrees=0.0, scale=1.0, shift=(0.0, 0.0)):
    images = torch.as_tensor(image, dtype=torch.float32)[None, None]
    moved = transform(
        images, np.array([np.deg2rad(degrees)]), np.array([scale]), np.array([shift], dtype=float)
    )
    return moved[0, 0]


def dot(height, width, row, column):
    image = torch.zeros(height, width)
    image[row, column] = 1.0
    return image


def centre_of_mass(images):
    """(x, y) of each image's centre of mass, in pixels from its middle: `[B, 2]`."""
    height, width = images.shape[-2:]
    x = torch.arange(width) - (width - 1) / 2
    y = torch.arange(height) - (height - 1) / 2
    mass = images.sum((-2, -1))
    return (
        torch.stack([(images * x).sum((-2, -1)), (images * y[:, None]).sum((-2, -1))], -1)
        / (mass[:, None])
    )


@pytest.mark.parametrize(
    ("degrees", "row", "column"), [(90, 1, 4), (180, 4, 1), (270, 7, 4), (-90, 7, 4)]
)
def test_rotation_is_counter_clockwise(degrees, row, column):
    right_of_middle = dot(9, 9, 4, 7)
    turned = move(right_of_middle, degrees=degrees)
    torch.testing.assert_close(turned, dot(9, 9, row, column), atol=1e-5, rtol=0)


def test_rotation_keeps_angles_and_lengths_in_images_that_are_not_square():
    # 3 pixels right of the middle of 7 rows x 21 columns come to lie 3 pixels above it.
    turned = move(dot(7, 21, 3, 13), degrees=90)
    torch.testing.assert_close(turned, dot(7, 21, 0, 10), atol=1e-5, rtol=0)
    # 3-4-5 triangle: a turn by its angle moves (5, 0) to (4, -3), up being negative.
    turned = move(dot(9, 21, 4, 15), degrees=np.rad2deg(np.arctan2(3, 4)))
    assert turned.argmax() == 1 * 21 + 14


def test_a_positive_shift_goes_right_and_down_in_parts_of_each_side():
    moved = move(dot(10, 20, 2, 3), shift=(0.25, 0.3))
    torch.testing.assert_close(moved, dot(10, 20, 5, 8), atol=1e-5, rtol=0)


def test_what_comes_in_is_black():
    moved = move(torch.ones(4, 4), shift=(0.5, 0.0))
    assert moved[0].tolist() == [0, 0, 1, 1]


def test_a_scale_above_one_enlarges_about_the_middle():
    moved = move(dot(9, 9, 4, 6), scale=2.0)
    assert moved.argmax() == 4 * 9 + 8
    assert moved.sum() > 2  # a point grows
    shrunk = move(torch.ones(8, 8), scale=0.5)
    torch.testing.assert_close(shrunk[2:6, 2:6], torch.ones(4, 4))
    assert shrunk.sum() == 16


def test_the_shift_comes_last():
    moved = move(dot(9, 9, 4, 6), degrees=90, scale=1.5, shift=(2 / 9, 0.0))
    assert moved.argmax() == 1 * 9 + 6  # 2 right, turned to 2 up, 3 up, then 2 to the right


def test_halves_are_bilinear():
    moved = move(dot(1, 8, 0, 3), shift=(0.5 / 8, 0.0))
    torch.testing.assert_close(moved[0, 3:5], torch.tensor([0.5, 0.5]))


def test_nothing_is_on_by_default():
    assert not changes_images(AugmentationOptions())
    for options in (
        AugmentationOptions(rotation_degrees=1.0),
        AugmentationOptions(shift_fraction=0.1),
        AugmentationOptions(scale_ratio=1.1),
    ):
        assert changes_images(options)


def many(count=400):
    return np.zeros(count, dtype=np.int64), np.arange(count)


def test_shifts_fill_their_range_on_both_axes_apart():
    image = torch.zeros(20, 40)
    image[10:12, 18:22] = 1.0
    images = image.expand(400, 1, -1, -1)
    options = AugmentationOptions(shift_fraction=0.2)
    moved = centre_of_mass(augment(images, options, 0, *many())[:, 0]) - centre_of_mass(
        images[:, 0]
    )
    x, y = moved[:, 0] / 40, moved[:, 1] / 20
    for axis in (x, y):
        assert -0.201 < axis.min() < -0.19
        assert 0.19 < axis.max() < 0.201
        assert abs(axis.mean()) < 0.03
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2


def test_rotations_fill_their_range():
    image = dot(41, 41, 20, 35).expand(400, 1, -1, -1)
    place = centre_of_mass(
        augment(image, AugmentationOptions(rotation_degrees=20.0), 0, *many())[:, 0]
    )
    degrees = torch.rad2deg(torch.atan2(-place[:, 1], place[:, 0]))
    assert -20.5 < degrees.min() < -19
    assert 19 < degrees.max() < 20.5
    assert abs(degrees.mean()) < 2


def test_shears_fill_their_range_and_slant_upright_lines_alone():
    above = dot(41, 61, 5, 30).expand(400, 1, -1, -1)  # 15 pixels over the centre
    moved = augment(above, AugmentationOptions(shear_degrees=30.0), 0, *many())[:, 0]
    place = centre_of_mass(moved)
    assert (place[:, 1] + 15).abs().max() < 0.1  # as high as before
    degrees = torch.rad2deg(torch.atan2(place[:, 0], -place[:, 1]))
    assert -31 < degrees.min() < -28
    assert 28 < degrees.max() < 31
    assert abs(degrees.mean()) < 3
    level = dot(41, 61, 20, 45).expand(50, 1, -1, -1)
    stays = augment(level, AugmentationOptions(shear_degrees=30.0), 0, *many(50))
    torch.testing.assert_close(stays, level, atol=1e-3, rtol=0)
    upright = np.zeros(1), np.ones(1), np.zeros((1, 2))
    left = transform(above[:1], *upright, shears=np.full(1, 0.4))
    assert centre_of_mass(left[:, 0])[0, 0] < -6
    # The shear comes before the turn: what it moved to the left is then below the centre.
    turned = transform(above[:1], np.full(1, np.pi / 2), *upright[1:], shears=np.full(1, 0.4))
    assert centre_of_mass(turned[:, 0])[0, 1] > 6


def test_scales_are_even_in_their_logarithm():
    square = torch.zeros(48, 48)
    square[16:32, 16:32] = 1.0
    images = square.expand(400, 1, -1, -1)
    area = augment(images, AugmentationOptions(scale_ratio=1.5), 0, *many()).sum((1, 2, 3))
    logarithm = torch.log(area / 256) / (2 * np.log(1.5))
    assert -1.06 < logarithm.min() < -0.94
    assert 0.94 < logarithm.max() < 1.06
    assert abs(logarithm.mean()) < 0.1


def test_turning_one_setting_on_leaves_the_others_alone():
    image = dot(41, 41, 20, 30).expand(50, 1, -1, -1)
    epochs, indices = many(50)
    alone = augment(image, AugmentationOptions(rotation_degrees=90.0), 0, epochs, indices)
    both = augment(
        image, AugmentationOptions(rotation_degrees=90.0, scale_ratio=1.2), 0, epochs, indices
    )
    angle = [torch.atan2(*centre_of_mass(moved[:, 0]).T) for moved in (alone, both)]
    torch.testing.assert_close(angle[0], angle[1], atol=0.05, rtol=0)


def test_angle_and_scale_are_drawn_apart():
    image = dot(61, 61, 30, 45).expand(400, 1, -1, -1)
    options = AugmentationOptions(rotation_degrees=90.0, scale_ratio=1.5)
    place = centre_of_mass(augment(image, options, 0, *many())[:, 0])
    angles, radii = torch.atan2(place[:, 1], place[:, 0]), place.norm(dim=1)
    assert radii.max() > 2 * radii.min()
    assert abs(np.corrcoef(angles, radii)[0, 1]) < 0.2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 31, 17), (1, 5, 7)])
def test_an_example_does_not_depend_on_its_batch(shape):
    images = torch.rand(67, *shape, generator=torch.Generator().manual_seed(0))
    epochs, indices = np.arange(67) % 4, np.arange(67) + 1000
    together = augment(images, EVERYTHING, 5, epochs, indices)
    order = np.random.default_rng(0).permutation(67)
    shuffled = augment(images[order], EVERYTHING, 5, epochs[order], indices[order])
    assert torch.equal(shuffled, together[order])
    for part in (slice(0, 1), slice(3, 5), slice(10, 43), slice(66, 67)):
        alone = augment(images[part], EVERYTHING, 5, epochs[part], indices[part])
        assert torch.equal(alone, together[part])


def test_seed_epoch_and_index_each_change_it():
    images = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    one, two = np.array([1]), np.array([2])
    results = [
        augment(images, EVERYTHING, seed, epochs, indices)
        for seed, epochs, indices in ((0, one, one), (1, one, one), (0, two, one), (0, one, two))
    ]
    for n, result in enumerate(results):
        assert all(not torch.equal(result, other) for other in results[n + 1 :])
    assert torch.equal(results[0], augment(images, EVERYTHING, 0, one, one))
