"""How bright, strong and coloured pixels are: brightness, contrast, saturation, hue, sharpness.

A stage of the augmentation; the policy uses the same operations. All work on levels, float32
`[B, C, H, W]` in 0…255 (whole or not), with C 1 or 3, and answer with the same; factors and angles
are float64 `[B]`, and a factor of 1 changes nothing.

Source: Haeberli and Voorhies 1994, "Image processing by interpolation and extrapolation"; as
Pillow's ImageEnhance has it, but for the rounding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.draws import Draw, Keys

Numbers = NDArray[np.float64]


def jitter_color(levels: Tensor, options: AugmentationOptions, keys: Keys) -> Tensor:
    """Brightness, contrast, saturation, hue, in this order and as far as the options say.

    Args:
        levels: float32 `[B, C, H, W]`.
        options: `brightness_fraction`, `contrast_fraction`, `saturation_fraction`, `hue_degrees`.
        keys: Whose numbers to draw, B examples.
    """
    for change, fraction, draw in (
        (change_brightness, options.brightness_fraction, Draw.BRIGHTNESS),
        (change_contrast, options.contrast_fraction, Draw.CONTRAST),
        (change_saturation, options.saturation_fraction, Draw.SATURATION),
    ):
        if fraction > 0:
            levels = change(levels, 1 + fraction * keys.signed(draw))
    if options.hue_degrees > 0:
        levels = turn_hue(levels, options.hue_degrees * keys.signed(Draw.HUE))
    return levels


def change_brightness(levels: Tensor, factors: Numbers) -> Tensor:
    """Multiplies by the factor: 0 is black."""
    return (levels * _by_image(factors)).clamp_(0, 255)


def change_contrast(levels: Tensor, factors: Numbers) -> Tensor:
    """Multiplies the distance from the image's mean grey, a whole level: 0 is that grey."""
    return _extrapolate(_mean_level(to_grey(levels, whole_levels=False)), levels, factors)


def change_saturation(levels: Tensor, factors: Numbers) -> Tensor:
    """Multiplies the distance from the pixel's grey: 0 is a grey image, which none changes."""
    if levels.shape[1] == 1:
        return levels
    return _extrapolate(to_grey(levels, whole_levels=False), levels, factors)


def change_sharpness(levels: Tensor, factors: Numbers) -> Tensor:
    """Multiplies the distance from a smoothed image: below 1 blurs, above 1 sharpens.

    The outermost pixels stay.
    """
    # Sums of shifted images, not a convolution: its result may depend on the size of the batch.
    rows = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    squares = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    middle = levels[..., 1:-1, 1:-1]
    sharpened = levels.clone()
    sharpened[..., 1:-1, 1:-1] = _extrapolate((squares + 4 * middle) / 13, middle, factors)
    return sharpened


def turn_hue(levels: Tensor, degrees: Numbers) -> Tensor:
    """Turns the circle of colours; grey images and grey pixels stay.

    Source:
        Smith 1978, "Color gamut transform pairs" (the hexcone model, HSV).
    """
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.unbind(1)
    value = levels.amax(1)
    chroma = value - levels.amin(1)
    # Sixths of the circle; grey pixels have no hue, and no chroma for it to act on.
    divisor = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue += _by_image(degrees / 60)[:, 0]
    turned = torch.empty_like(levels)
    for channel, phase in enumerate((5, 3, 1)):
        distance = torch.remainder(hue + phase, 6)
        part = torch.minimum(distance, 4 - distance).clamp_(0, 1)
        turned[:, channel] = value - chroma * part
    return turned


def to_grey(levels: Tensor, whole_levels: bool) -> Tensor:
    """One channel, float32 `[B, 1, H, W]`; whole levels as Pillow's `convert("L")` has them.

    Args:
        levels: float32 `[B, C, H, W]`, on any scale where `whole_levels` is not set.
        whole_levels: Whether they are whole levels, and the answer is to be.

    Source:
        ITU-R Recommendation BT.601, luma; Pillow, src/libImaging/Convert.c.
    """
    if levels.shape[1] == 1:
        return levels
    red, green, blue = levels.unbind(1)
    if whole_levels:
        # Parts of 2^16; every sum here is a whole number that float32 can hold.
        grey = (19595 * red + 38470 * green + 7471 * blue).add_(2**15).div_(2**16).floor_()
    else:
        grey = 0.299 * red + 0.587 * green + 0.114 * blue
    return grey[:, None]


def _mean_level(grey: Tensor) -> Tensor:
    """The mean of `[B, C, H, W]` over each image's channel, as a whole level: `[B, C, 1, 1]`.

    A sum of whole numbers is the same in whatever order a batch of this size is summed.
    """
    sums = grey.round().sum((-2, -1), keepdim=True, dtype=torch.float64)
    return (sums / (grey.shape[-2] * grey.shape[-1]) + 0.5).floor().float()


def _extrapolate(end: Tensor, levels: Tensor, factors: Numbers) -> Tensor:
    """From `end` (factor 0) through the image (1) and on, within 0…255."""
    return ((levels - end).mul_(_by_image(factors)).add_(end)).clamp_(0, 255)


def _by_image(numbers: Numbers) -> Tensor:
    """float64 `[B]` to float32 `[B, 1, 1, 1]`."""
    return torch.from_numpy(numbers.astype(np.float32))[:, None, None, None]
