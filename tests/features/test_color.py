"""Tones and colours against Pillow and the standard library, on images of 8 bits."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation import augment
from hf_finetune.features.color import (
    change_brightness,
    change_contrast,
    change_saturation,
    change_sharpness,
    turn_hue,
)

FACTORS = (0.0, 0.1, 0.5, 0.93, 1.0, 1.07, 1.5, 1.9)


def photo(mode: str, seed: int = 0) -> Image.Image:
    """Colours of every kind over a slope of light, with edges."""
    generator = np.random.default_rng(seed)
    shape = (37, 50, 3) if mode == "RGB" else (37, 50)
    pixels = generator.integers(0, 256, shape).astype(np.float64)
    pixels[:, :25] = 0.3 * pixels[:, :25] + np.linspace(0, 178, 37).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    return Image.fromarray(pixels.astype(np.uint8))


def levels_of(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels[None, None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)[None]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("change", "enhance"),
    [
        (change_brightness, ImageEnhance.Brightness),
        (change_contrast, ImageEnhance.Contrast),
        (change_saturation, ImageEnhance.Color),
        (change_sharpness, ImageEnhance.Sharpness),
    ],
)
def test_changes_are_pillows_within_one_level(
    change: Callable[..., torch.Tensor], enhance: Any, mode: str
):
    images = [photo(mode, seed) for seed in range(len(FACTORS))]
    batch = torch.cat([levels_of(image) for image in images])
    changed = change(batch, np.array(FACTORS)).round()
    for image, factor, result in zip(images, FACTORS, changed, strict=True):
        expected = levels_of(enhance(image).enhance(factor))[0]
        assert float((result - expected).abs().max()) <= 1, factor
    if not (mode == "L" and change is change_saturation):
        assert float((changed[0] - batch[0]).abs().max()) > 20


def test_hue_is_the_standard_librarys():
    degrees = np.array([-170.0, -60.0, 0.0, 33.0, 120.0, 180.0])
    batch = torch.cat([levels_of(photo("RGB"))] * 6)
    batch[:, :, 0] = torch.tensor([0.0, 90.0, 255.0]).repeat(17)[:50]  # greys have no hue
    turned = turn_hue(batch, degrees)
    for image, degree, result in zip(batch, degrees, turned, strict=True):
        for row, column in ((0, 2), (3, 30), (20, 7), (36, 49), (11, 26), (9, 40)):
            hue, saturation, value = colorsys.rgb_to_hsv(*(image[:, row, column] / 255).tolist())
            expected = colorsys.hsv_to_rgb((hue + degree / 360) % 1, saturation, value)
            found = (result[:, row, column] / 255).tolist()
            assert found == pytest.approx(expected, abs=1e-5)


def test_grey_images_have_no_colour_to_change():
    grey = levels_of(photo("L")).expand(4, -1, -1, -1)
    options = AugmentationOptions(saturation_fraction=0.5, hue_degrees=90.0)
    assert torch.equal(
        augment(grey, options, 0, np.zeros(4), np.arange(4), whole_levels=True), grey
    )
    alike = grey.expand(-1, 3, -1, -1)
    assert float((turn_hue(alike, np.full(4, 77.0)) - alike).abs().max()) < 1e-4


def drawn(settings: dict[str, float], image: torch.Tensor) -> torch.Tensor:
    count = 2000
    images = image.expand(count, -1, -1, -1)
    return augment(images, AugmentationOptions(**settings), 0, np.zeros(count), np.arange(count))


def test_factors_fill_their_range_evenly():
    """On a pixel each way of the mean, well inside the scale."""
    image = torch.tensor([[0.4, 0.6]]).expand(1, 1, 1, 2)
    brightness = drawn({"brightness_fraction": 0.3}, image)[:, 0, 0, 0] / 0.4
    contrast = drawn({"contrast_fraction": 0.3}, image)[:, 0, 0]
    contrast = (contrast[:, 1] - contrast[:, 0]) / 0.2
    for factors in (brightness, contrast):
        assert 0.699 < float(factors.min()) < 0.71
        assert 1.29 < float(factors.max()) < 1.301
        assert abs(float(factors.mean()) - 1) < 0.02
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.1


def test_hues_and_saturations_fill_their_range_evenly():
    pixel = torch.tensor([0.6, 0.4, 0.4]).reshape(1, 3, 1, 1)
    hues = []
    for red, green, blue in drawn({"hue_degrees": 50.0}, pixel)[:, :, 0, 0].tolist():
        hue = 360 * colorsys.rgb_to_hsv(red, green, blue)[0]
        hues.append(hue - 360 * (hue > 180))
    assert -50.01 < min(hues) < -49
    assert 49 < max(hues) < 50.01
    assert abs(np.mean(hues)) < 3
    pixels = drawn({"saturation_fraction": 0.4}, pixel)[:, :, 0, 0]
    factors = (pixels[:, 0] - pixels[:, 1]) / 0.2
    assert 0.599 < float(factors.min()) < 0.61
    assert 1.39 < float(factors.max()) < 1.401


def test_sharpness_leaves_the_outermost_pixels():
    image = levels_of(photo("RGB"))
    blurred = change_sharpness(image, np.zeros(1))
    assert torch.equal(blurred[..., 0, :], image[..., 0, :])
    smooth = levels_of(photo("RGB").filter(ImageFilter.SMOOTH))
    assert float((blurred - smooth).abs().max()) <= 1


@pytest.mark.parametrize(
    ("mode", "pixels", "grey"),
    [("L", [[10, 11]], 11), ("L", [[10, 10, 11]], 10), ("RGB", [[(1, 0, 0), (0, 1, 0)]], 1)],
)
def test_the_grey_of_no_contrast_is_pillows(mode: str, pixels: Any, grey: int):
    """The mean of whole greys, itself whole."""
    image = Image.fromarray(np.array(pixels, dtype=np.uint8))
    assert image.mode == mode
    assert set(np.array(ImageEnhance.Contrast(image).enhance(0.0)).flatten().tolist()) == {grey}
    assert change_contrast(levels_of(image), np.zeros(1)).unique().tolist() == [grey]
