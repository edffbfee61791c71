"""The augmentation of training images: every stage, in its order.

Called by the image collator, in training only, before anything is resized; the last stage, mixing,
by the collator itself, since it takes images that are ready for the model.

| | stage | settings | file |
| --- | --- | --- | --- |
| 1 | pad, and crop whole pixels | `pad_crop_…` | geometry |
| 2 | crop, shear, rotate, scale, then shift: one resampling | `crop_…`, `shear_…`, … | geometry |
| 3 | mirror | `…_flip` | geometry |
| 4 | the policy's changes, in an order of their own | `policy…` | policies |
| 5 | brightness, contrast, saturation, hue | `brightness_…`, … | color |
| 6 | erase a rectangle | `erase_…` | erasing |
| 7 | mix with another, which went through 1 to 6 by its own key | `mix…`, `cutmix_…` | mixing |

What happens to an example follows from (seed, epoch, index): a resumed run sees what an unbroken
one saw, and no image depends on its batch. Each random number has a name and a number of its own
(`draws.Draw`), so that switching one stage on leaves what the others do as it was. Images of 8 bits
stay whole levels, as they are in evaluation, up to the mixing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.color import jitter_color
from hf_finetune.features.draws import Keys
from hf_finetune.features.erasing import erase
from hf_finetune.features.geometry import flip, move, pad_and_crop
from hf_finetune.features.policies import apply_policy

# Large images go through in blocks that stay in the cache: fresh memory costs more than the work.
_BLOCK_PIXELS = 2**20
_TONES = (
    "policy",
    "brightness_fraction",
    "contrast_fraction",
    "saturation_fraction",
    "hue_degrees",
)


def changes_images(options: AugmentationOptions) -> bool:
    """Whether anything is turned on."""
    return options != AugmentationOptions()


def augment(
    images: Tensor,
    options: AugmentationOptions,
    seed: int,
    epochs: NDArray[np.int64],
    indices: NDArray[np.int64],
    *,
    whole_levels: bool = False,
) -> Tensor:
    """Stages 1 to 6.

    Args:
        images: float32 `[B, C, H, W]`, C 1 or 3; 0…255 with `whole_levels` and else 0…1.
        options: What to do, and how far.
        seed: The run's seed.
        epochs: int64 `[B]`.
        indices: int64 `[B]`, rows in the split.
        whole_levels: Whether pixels are whole levels, and are to stay so.

    Returns:
        float32 `[B, C, H, W]` on the same scale. An example's result does not depend on the rest
        of the batch.

    Raises:
        DataError: Images are too small for `pad_crop_pixels`.
    """
    keys = Keys(seed, epochs, indices)
    size = max(1, _BLOCK_PIXELS // images[0].numel())
    if len(images) <= size:
        return _augment_block(images, options, keys, whole_levels)
    result = torch.empty(images.shape)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        result[rows] = _augment_block(images[rows], options, keys.take(rows), whole_levels)
    return result


def _augment_block(
    images: Tensor, options: AugmentationOptions, keys: Keys, whole_levels: bool
) -> Tensor:
    images = pad_and_crop(images, options, keys)
    images = move(images, options, keys)
    images = images.round() if whole_levels else images
    images = flip(images, options, keys)
    images = _change_tones(images, options, keys, whole_levels)
    return erase(images, options, keys, whole_levels=whole_levels)


def _change_tones(
    images: Tensor, options: AugmentationOptions, keys: Keys, whole_levels: bool
) -> Tensor:
    """Stages 4 and 5, which count in levels of 0…255."""
    off = AugmentationOptions()
    if all(getattr(options, name) == getattr(off, name) for name in _TONES):
        return images
    levels = images if whole_levels else images * 255
    levels = apply_policy(levels, options, keys)
    levels = jitter_color(levels, options, keys)
    return levels.round() if whole_levels else levels / 255
