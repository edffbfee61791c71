"""RandAugment: each change against Pillow or by hand, and how changes are drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation import augment
from hf_finetune.features.policies import CHANGES


def photos(count: int, channels: int = 3) -> torch.Tensor:
    """Dull pictures of few and many levels."""
    generator = np.random.default_rng(0)
    pixels = generator.normal(
        120, 5 + 10 * np.arange(count)[:, None, None, None], (count, channels, 24, 33)
    )
    pixels[0] = 80
    pixels[1, :, :, :20] = 17
    return torch.from_numpy(pixels.clip(0, 255).round().astype(np.float32))


def to_pillow(levels: torch.Tensor) -> Image.Image:
    pixels = levels.to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def from_pillow(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def test_the_changes_are_the_papers_fourteen():
    listed = """identity autocontrast equalize rotate solarize saturation posterize contrast
        brightness sharpness shear_x shear_y translate_x translate_y"""
    assert list(CHANGES) == listed.split()


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_is_pillows(channels: int):
    levels = photos(8, channels)
    for image, result in zip(levels, CHANGES["equalize"](levels, np.ones(8)), strict=True):
        assert torch.equal(result, from_pillow(ImageOps.equalize(to_pillow(image))))


@pytest.mark.parametrize("channels", [1, 3])
def test_autocontrast_is_pillows_within_one_level(channels: int):
    levels = photos(8, channels)
    results = CHANGES["autocontrast"](levels, np.ones(8)).round()
    for image, result in zip(levels, results, strict=True):
        expected = from_pillow(ImageOps.autocontrast(to_pillow(image)))
        assert float((result - expected).abs().max()) <= 1


@pytest.mark.parametrize(("amount", "bits"), [(0.0, 8), (0.2, 7), (-0.5, 6), (1.0, 4), (-1.0, 4)])
def test_posterize_is_pillows(amount: float, bits: int):
    levels = photos(8)
    for image, result in zip(levels, CHANGES["posterize"](levels, np.full(8, amount)), strict=True):
        assert torch.equal(result, from_pillow(ImageOps.posterize(to_pillow(image), bits)))


@pytest.mark.parametrize(
    ("amount", "threshold"), [(0.0, 256), (0.5, 128), (-0.75, 64), (1.0, 0), (-1.0, 0)]
)
def test_solarize_is_pillows(amount: float, threshold: int):
    levels = photos(8)
    for image, result in zip(levels, CHANGES["solarize"](levels, np.full(8, amount)), strict=True):
        assert torch.equal(result, from_pillow(ImageOps.solarize(to_pillow(image), threshold)))


@pytest.mark.parametrize(
    ("name", "amount", "matrix"),
    [
        ("rotate", 1.0, None),
        ("rotate", -0.5, None),
        ("shear_x", 0.8, (1, 0.24, 0, 0, 1, 0)),
        ("shear_y", -1.0, (1, 0, 0, -0.3, 1, 0)),
        ("translate_x", 0.5, (1, 0, 0.5 * 150 / 331 * 33, 0, 1, 0)),
        ("translate_y", -0.25, (1, 0, 0, 0, 1, -0.25 * 150 / 331 * 24)),
    ],
)
def test_changes_of_place_are_pillows(name: str, amount: float, matrix: tuple[float, ...] | None):
    """About the middle of the image, wherever both know every pixel that they blend."""
    levels, bilinear = photos(3), Image.Resampling.BILINEAR
    white = torch.full_like(levels[:1], 255)

    def move(picture: Image.Image) -> Image.Image:
        if matrix is None:
            return picture.rotate(30 * amount, bilinear)
        a, b, c, d, e, f = matrix
        x, y = 33 / 2, 24 / 2
        about = (a, b, c + x - a * x - b * y, d, e, f + y - d * x - e * y)
        return picture.transform((33, 24), Image.Transform.AFFINE, about, bilinear)

    results = CHANGES[name](levels, np.full(3, amount))
    inside = CHANGES[name](white, np.array([amount]))[0] > 254.99
    inside &= from_pillow(move(to_pillow(white[0]))) == 255
    assert 0.3 < float(inside.float().mean()) < 1
    for image, result in zip(levels, results, strict=True):
        expected = from_pillow(move(to_pillow(image)))
        assert float((result - expected).abs()[inside].max()) <= 1.01


@pytest.mark.parametrize("name", CHANGES)
def test_no_change_mirrors(name: str):
    """Three points keep their sense of rotation, as far as a change may go."""
    points = torch.zeros(3, 1, 64, 64)
    for image, (x, y) in zip(points, ((30, 30), (34, 30), (30, 34)), strict=True):
        image[0, y, x] = 200
    for amount in (-1.0, 1.0):
        changed = CHANGES[name](points, np.full(3, amount))[:, 0]
        mass = (changed - changed.flatten(1).median(1).values[:, None, None]).abs()
        total = mass.sum((1, 2))
        x = (mass.sum(1) * torch.arange(64)).sum(1) / total
        y = (mass.sum(2) * torch.arange(64)).sum(1) / total
        turn = (x[1] - x[0]) * (y[2] - y[0]) - (y[1] - y[0]) * (x[2] - x[0])
        assert float(turn) == pytest.approx(16, rel=0.2)


def test_a_magnitude_of_0_leaves_place_and_strength():
    levels, still = photos(8), np.zeros(8)
    for name, change in CHANGES.items():
        if name not in ("autocontrast", "equalize"):
            torch.testing.assert_close(change(levels, still), levels, atol=2e-3, rtol=0, msg=name)


def test_each_change_is_drawn_as_often_in_each_direction():
    """Counted by what each does to a picture."""
    count, image = 4000, photos(8)[3:4]
    options = AugmentationOptions(policy="randaugment", policy_num_ops=1, policy_magnitude=6.0)
    keys = np.zeros(count, np.int64), np.arange(count)
    drawn = augment(image.expand(count, -1, -1, -1), options, 0, *keys, whole_levels=True)
    found = Counter(changed.numpy().tobytes() for changed in drawn)
    assert sum(found.values()) == count
    for name, change in CHANGES.items():
        ways = {change(image, np.array([way])).round()[0].numpy().tobytes() for way in (-0.6, 0.6)}
        assert sum(found[way] for way in ways) / count == pytest.approx(1 / 14, abs=0.015), name
        if len(ways) == 2:
            assert min(found[way] for way in ways) / count > 0.025, name


def test_changes_follow_one_another():
    """With two, an image gets one after the other: the second's number is another."""
    image, count = photos(8)[3:4], 3000
    keys = np.zeros(count, np.int64), np.arange(count)
    images = image.expand(count, -1, -1, -1)

    def draw(num_ops: int) -> torch.Tensor:
        options = AugmentationOptions(policy="randaugment", policy_num_ops=num_ops)
        return augment(images, options, 0, *keys, whole_levels=True)

    once, twice = draw(1), draw(2)
    same = float((once == twice).flatten(1).all(1).float().mean())
    assert 0.05 < same < 0.2  # the second is the identity, or does nothing more
    untouched = float((twice == image).flatten(1).all(1).float().mean())
    assert untouched < 0.02  # 1 in 196
