"""Random rotation, shift and scale of training images, in one resampling.

Called by the image collator, in training only, before anything is resized. What happens to an
example follows from (seed, epoch, index), so that a resumed run sees what an unbroken one saw.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from hf_finetune.features import AugmentationOptions
from hf_finetune.features.keyed_random import uniform

# Each setting has its own draw: turning one on leaves what the others do as it was.
_ROTATION, _SHIFT_X, _SHIFT_Y, _SCALE = range(4)


def changes_images(options: AugmentationOptions) -> bool:
    """Whether anything is turned on."""
    return options != AugmentationOptions()


def augment(
    images: Tensor,
    options: AugmentationOptions,
    seed: int,
    epochs: NDArray[np.int64],
    indices: NDArray[np.int64],
) -> Tensor:
    """Rotates, scales and then shifts each image about its centre; what comes in is black.

    Args:
        images: float32 `[B, C, H, W]`.
        options: How far each change may go.
        seed: The run's seed.
        epochs: int64 `[B]`.
        indices: int64 `[B]`, rows in the split.

    Returns:
        float32 `[B, C, H, W]`, bilinear between the pixels. An example's result does not depend
        on the rest of the batch.
    """

    def draw(which: int) -> NDArray[np.float64]:
        return 2 * uniform(seed, epochs, indices, which) - 1

    angles = np.deg2rad(options.rotation_degrees) * draw(_ROTATION)
    scales = options.scale_ratio ** draw(_SCALE)
    shifts = options.shift_fraction * np.stack([draw(_SHIFT_X), draw(_SHIFT_Y)], axis=1)
    return transform(images, angles, scales, shifts)


def transform(
    images: Tensor,
    angles: NDArray[np.float64],
    scales: NDArray[np.float64],
    shifts: NDArray[np.float64],
) -> Tensor:
    """Rotates, scales and then shifts each image about its centre.

    Args:
        images: float32 `[B, C, H, W]`.
        angles: float64 `[B]`, radians; above 0 turns counter-clockwise.
        scales: float64 `[B]`; above 1 enlarges.
        shifts: float64 `[B, 2]`, (x, y) as parts of the image's width and height; above 0 moves
            right and down.

    Returns:
        float32 `[B, C, H, W]`; bilinear between the pixels, 0 outside the image.
    """
    height, width = images.shape[-2:]
    # The grid asks where each pixel comes from, so this is the inverse: shift back, then turn and
    # scale back. It counts from -1 to 1 on both axes; turning needs both in the same unit.
    cos, sin = np.cos(angles) / scales, np.sin(angles) / scales
    linear = np.array([[cos, -sin * height / width], [sin * width / height, cos]])
    linear = linear.transpose(2, 0, 1)
    offsets = -linear @ (2 * shifts[:, :, None])
    matrices = torch.from_numpy(np.concatenate([linear, offsets], axis=2).astype(np.float32))
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
