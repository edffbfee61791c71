"""Mixup and cutmix: a training image becomes two, and so does its label.

The last stage of the augmentation, on images that are ready for the model (so that their sizes
agree). `Partners` says at reading time which other image goes into an example, and `mix` mixes.
Each example's partner, ratio and rectangle follow from its own key, not from its batch.

Source: Zhang et al. 2018, "mixup: Beyond empirical risk minimization", §2; Yun et al. 2019,
"CutMix: regularization strategy to train strong classifiers with localizable features", §3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.draws import Draw, Keys
from hf_finetune.features.geometry import rectangle_mask

_BLOCK_PIXELS = 2**20  # of large images at a time, which stay in the cache


@dataclass(frozen=True)
class Partners:
    """Chooses the examples that are mixed, and with what.

    Attributes:
        options: The configuration's `features.augmentation` section.
        seed: The run's seed.
        num_rows: Rows of the training split.
    """

    options: AugmentationOptions
    seed: int
    num_rows: int

    def __call__(
        self, epochs: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of the mixed examples in the batch, and the row that goes into each.

        Args:
            epochs: int64 `[B]`.
            indices: int64 `[B]`, rows in the training split.

        Returns:
            int64 `[M]`, ascending; int64 `[M]`, each any row of the split but the example's own
            (unless there is no other).
        """
        keys = Keys(self.seed, epochs, indices)
        mixed = np.flatnonzero(keys.uniform(Draw.MIX) < self.options.mix_probability)
        steps = 1 + keys.take(mixed).whole(self.num_rows - 1, Draw.PARTNER)
        return mixed, (indices[mixed] + steps) % self.num_rows


def mix(
    pixel_values: Tensor,
    labels: Tensor,
    mixed_into: NDArray[np.int64],
    options: AugmentationOptions,
    keys: Keys,
) -> dict[str, Tensor]:
    """Mixes the last M images of a batch into some of the first B.

    Args:
        pixel_values: float32 `[B + M, C, H, W]`; its memory is used for the result.
        labels: int64 `[B + M]`.
        mixed_into: int64 `[M]`, the example that each of the last M images goes into.
        options: `mixup_alpha`, `cutmix_alpha`, `cutmix_fraction`.
        keys: Whose numbers to draw: the B examples'.

    Returns:
        `pixel_values` float32 `[B, C, H, W]`, `labels` int64 `[B]`, `mixed_labels` int64 `[B]`
        (the partner's, or the example's own), `mix_ratio` float32 `[B]` in [0, 1], the part of
        `labels` (1 where nothing is mixed).
    """
    count, places = len(keys.indices), torch.from_numpy(mixed_into)
    mixed_labels, ratios = labels[:count].clone(), torch.ones(count)
    mixed_labels[places] = labels[count:]
    channels = pixel_values.shape[1]
    if pixel_values.stride(1) == 0:  # one channel, shown several times
        pixel_values = pixel_values[:, :1]
    images, partners = pixel_values[:count], pixel_values[count:]
    size = max(1, _BLOCK_PIXELS // images[0].numel())
    for start in range(0, len(places), size):
        rows = slice(start, start + size)
        own = _own_parts(options, keys.take(mixed_into[rows]), *images.shape[-2:])
        ratios[places[rows]] = own.mean((1, 2, 3), dtype=torch.float64).float()
        images[places[rows]] = torch.lerp(partners[rows], images[places[rows]], own)
    return {
        "pixel_values": images.expand(-1, channels, -1, -1),
        "labels": labels[:count],
        "mixed_labels": mixed_labels,
        "mix_ratio": ratios,
    }


def _own_parts(options: AugmentationOptions, keys: Keys, height: int, width: int) -> Tensor:
    """How much of each pixel is the example's own: float32 `[M, 1, H, W]` in [0, 1]."""
    cut_fraction = options.cutmix_fraction if options.mixup_alpha > 0 else 1.0
    if options.cutmix_alpha == 0:
        cut_fraction = 0.0
    is_cut = keys.uniform(Draw.MIX_KIND) < cut_fraction
    blend = np.where(is_cut, 1.0, _draw_beta(options.mixup_alpha, keys, Draw.MIXUP_RATIO))
    ratios = np.where(is_cut, _draw_beta(options.cutmix_alpha, keys, Draw.CUTMIX_RATIO), 1.0)
    pixels = np.array([width, height])
    sides = np.floor(np.sqrt(1 - ratios)[:, None] * pixels).astype(np.int64)
    centres = [keys.whole(width, Draw.CUTMIX_X), keys.whole(height, Draw.CUTMIX_Y)]
    starts = np.stack(centres, axis=1) - sides // 2
    pasted = rectangle_mask(starts, sides, height, width)  # what sticks out is cut off
    parts = torch.from_numpy(blend.astype(np.float32))[:, None, None, None]
    return parts.expand(-1, 1, height, width).masked_fill(pasted, 0.0)


def _draw_beta(alpha: float, keys: Keys, draw: Draw) -> NDArray[np.float64]:
    """Numbers from Beta(alpha, alpha), float64 `[M]`; 1 where alpha is 0."""
    if alpha == 0:
        return np.ones(len(keys.indices))
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, keys.uniform(draw)), dtype=np.float64)
