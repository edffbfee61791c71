"""Random erasing: paints over a rectangle, so that a model can't lean on one part of an image.

The augmentation's last stage before images are mixed.

Source: Zhong et al. 2020, "Random erasing data augmentation", algorithm 1. Instead of drawing until
a rectangle fits, its aspect ratio is drawn among those that fit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.draws import Draw, Keys
from hf_finetune.features.geometry import draw_ratios, fit_sides, rectangle_mask


def erase(
    images: Tensor, options: AugmentationOptions, keys: Keys, *, whole_levels: bool
) -> Tensor:
    """Paints over a rectangle of whole pixels in some images.

    Args:
        images: float32 `[B, C, H, W]`, 0…255 with `whole_levels` and else 0…1.
        options: `erase_…`.
        keys: Whose numbers to draw, B examples.
        whole_levels: Whether pixels are whole levels; the paint then is, too.

    Returns:
        float32 `[B, C, H, W]`.
    """
    erased = np.flatnonzero(keys.uniform(Draw.ERASE) < options.erase_probability)
    if len(erased) == 0:
        return images
    keys, rows = keys.take(erased), torch.from_numpy(erased)
    chosen = images[rows]
    mask = _draw_rectangles(options, keys, *images.shape[-2:])
    if options.erase_fill == "noise":
        chosen = _paint_noise(chosen, mask, keys, whole_levels)
    elif options.erase_fill == "mean":
        chosen = torch.where(mask, _mean(chosen, whole_levels), chosen)
    else:
        chosen = chosen.masked_fill(mask, 0.0)
    return images.index_copy(0, rows, chosen)


def _draw_rectangles(options: AugmentationOptions, keys: Keys, height: int, width: int) -> Tensor:
    """Which pixels are painted over, bool `[B, 1, H, W]`."""
    areas = keys.between(*options.erase_area_fraction, Draw.ERASE_AREA)
    ratios = draw_ratios(keys, Draw.ERASE_ASPECT, options.erase_aspect_ratio, areas, width / height)
    pixels = np.array([width, height])
    sides = np.rint(fit_sides(areas, ratios, width / height) * pixels).astype(np.int64)
    sides = np.maximum(sides, 1)
    room = pixels - sides + 1
    starts = [
        keys.whole(room[:, axis], draw) for axis, draw in enumerate((Draw.ERASE_X, Draw.ERASE_Y))
    ]
    return rectangle_mask(np.stack(starts, axis=1), sides, height, width)


def _mean(images: Tensor, whole_levels: bool) -> Tensor:
    """Mean of each channel of each image, to the nearest level: `[B, C, 1, 1]`.

    A sum of whole numbers is the same in whatever order a batch of this size is summed.
    """
    white = 255.0 if whole_levels else 1.0
    levels = (images * (255 / white)).round_().sum((-2, -1), keepdim=True, dtype=torch.float64)
    return ((levels / (images.shape[-2] * images.shape[-1])).round() * (white / 255)).float()


def _paint_noise(images: Tensor, mask: Tensor, keys: Keys, whole_levels: bool) -> Tensor:
    """Fills the masked pixels with numbers of their own; drawn for those pixels alone."""
    painted = mask.expand_as(images).nonzero(as_tuple=True)
    places = np.ravel_multi_index([place.numpy() for place in painted[1:]], images.shape[1:])
    noise = keys.take(painted[0].numpy()).uniform(Draw.ERASE_NOISE, places)
    noise = np.floor(256 * noise) if whole_levels else noise
    images[painted] = torch.from_numpy(noise.astype(np.float32))
    return images
