"""RandAugment: a few of 14 changes of place and tone, drawn anew for each image.

A stage of the augmentation. Which changes an image gets, in which order and in which direction,
follows from its keys; images that get the same one are changed together. None of them mirrors.

Source: Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search
space", §3; how far each change goes at magnitude 10 is from Cubuk et al. 2019, "AutoAugment",
appendix A, table 6. What comes in is black here, where the authors' code puts grey.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.color import (
    change_brightness,
    change_contrast,
    change_saturation,
    change_sharpness,
)
from hf_finetune.features.draws import Draw, Keys
from hf_finetune.features.geometry import resample

Amounts = NDArray[np.float64]
_LARGEST_MAGNITUDE = 10


def apply_policy(levels: Tensor, options: AugmentationOptions, keys: Keys) -> Tensor:
    """Makes `policy_num_ops` changes to each image, one after the other.

    Args:
        levels: float32 `[B, C, H, W]` in 0…255.
        options: `policy`, `policy_num_ops`, `policy_magnitude`.
        keys: Whose numbers to draw, B examples.

    Returns:
        float32 `[B, C, H, W]` in 0…255, whole or not.
    """
    if options.policy == "none":
        return levels
    levels, changes = levels.clone(), tuple(CHANGES.values())
    for number in range(options.policy_num_ops):
        chosen = keys.whole(len(changes), Draw.POLICY + 2 * number)
        signs = np.where(keys.uniform(Draw.POLICY + 2 * number + 1) < 0.5, -1.0, 1.0)
        amounts = signs * (options.policy_magnitude / _LARGEST_MAGNITUDE)
        for kind in np.unique(chosen):
            rows = np.flatnonzero(chosen == kind)
            places = torch.from_numpy(rows)
            levels[places] = changes[kind](levels[places], amounts[rows])
    return levels


def rotate(levels: Tensor, amounts: Amounts) -> Tensor:
    """Turns by up to 30 degrees about the centre."""
    height, width = levels.shape[-2:]
    angles = np.deg2rad(30 * amounts)
    cos, sin = np.cos(angles), np.sin(angles)
    return _resample(levels, ((cos, -sin * height / width), (sin * width / height, cos)))


def shear_x(levels: Tensor, amounts: Amounts) -> Tensor:
    """Slants by up to 0.3 pixels right or left for each row away from the centre."""
    slope = 0.3 * amounts * levels.shape[-2] / levels.shape[-1]
    return _resample(levels, ((1, slope), (0, 1)))


def shear_y(levels: Tensor, amounts: Amounts) -> Tensor:
    """Slants by up to 0.3 pixels down or up for each column away from the centre."""
    slope = 0.3 * amounts * levels.shape[-1] / levels.shape[-2]
    return _resample(levels, ((1, 0), (slope, 1)))


def translate_x(levels: Tensor, amounts: Amounts) -> Tensor:
    """Shifts by up to 150/331 of the width."""
    return _resample(levels, ((1, 0), (0, 1)), (2 * 150 / 331 * amounts, 0))


def translate_y(levels: Tensor, amounts: Amounts) -> Tensor:
    """Shifts by up to 150/331 of the height."""
    return _resample(levels, ((1, 0), (0, 1)), (0, 2 * 150 / 331 * amounts))


def posterize(levels: Tensor, amounts: Amounts) -> Tensor:
    """Keeps the highest 8 to 4 bits of each level."""
    steps = _by_image(2.0 ** np.rint(4 * np.abs(amounts)))
    return (levels.round() / steps).floor_() * steps


def solarize(levels: Tensor, amounts: Amounts) -> Tensor:
    """Inverts what is as bright as 256 (nothing) down to 0 (everything)."""
    return torch.where(levels < _by_image(256 * (1 - np.abs(amounts))), levels, 255 - levels)


def autocontrast(levels: Tensor, _: Amounts) -> Tensor:
    """Spreads each channel over 0…255; one of a single level stays."""
    low, high = levels.amin((-2, -1), keepdim=True), levels.amax((-2, -1), keepdim=True)
    stretched = (levels - low) * (255 / (high - low))
    return torch.where(high > low, stretched, levels)


def equalize(levels: Tensor, _: Amounts) -> Tensor:
    """Makes all levels of a channel about as frequent; one of too few pixels for that stays.

    Source:
        Pillow, ImageOps.equalize.
    """
    whole = levels.round().clamp_(0, 255).long().flatten(2).flatten(0, 1)  # [B * C, H * W]
    places = whole + 256 * torch.arange(len(whole))[:, None]  # in a table for each channel
    counts = torch.bincount(places.flatten(), minlength=256 * len(whole)).view(-1, 256)
    brightest = counts.gather(1, whole.amax(1, keepdim=True))
    step = (counts.sum(1, keepdim=True) - brightest) // 255
    below = counts.cumsum(1) - counts
    table = (step // 2 + below).div(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    equalized = table.float().take(places).view_as(levels)
    return torch.where(step.view(*levels.shape[:2], 1, 1) > 0, equalized, levels)


def _enhance(
    change: Callable[[Tensor, Amounts], Tensor],
) -> Callable[[Tensor, Amounts], Tensor]:
    """A change of `color` by a factor within 1 ± 0.9."""
    return lambda levels, amounts: change(levels, 1 + 0.9 * amounts)


CHANGES: dict[str, Callable[[Tensor, Amounts], Tensor]] = {
    "identity": lambda levels, _: levels,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "rotate": rotate,
    "solarize": solarize,
    "saturation": _enhance(change_saturation),
    "posterize": posterize,
    "contrast": _enhance(change_contrast),
    "brightness": _enhance(change_brightness),
    "sharpness": _enhance(change_sharpness),
    "shear_x": shear_x,
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
}
"""Each takes levels float32 `[B, C, H, W]` in 0…255 and amounts float64 `[B]` in [-1, 1]: how far,
and where it matters in which direction. New ones come last: their order decides what is drawn."""


def _resample(
    levels: Tensor,
    linear: tuple[tuple[ArrayLike, ArrayLike], tuple[ArrayLike, ArrayLike]],
    offsets: tuple[ArrayLike, ArrayLike] = (0.0, 0.0),
) -> Tensor:
    """`geometry.resample`, with each entry one number for all images or one for each."""

    def stack(entries: tuple[ArrayLike, ...]) -> Amounts:
        columns = [np.broadcast_to(np.asarray(e, np.float64), len(levels)) for e in entries]
        return np.stack(columns, axis=1)

    return resample(levels, np.stack([stack(row) for row in linear], 1), stack(offsets)[..., None])


def _by_image(numbers: Amounts) -> Tensor:
    return torch.from_numpy(numbers.astype(np.float32))[:, None, None, None]
