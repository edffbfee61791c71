"""The random numbers of the augmentation: which number is for what, and for whom.

Every stage of the augmentation draws from here, by name. A name keeps its number for ever: whatever
else is switched on, an example's rotation stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hf_finetune.features.keyed_random import uniform


class Draw(IntEnum):
    """What a number is for. No number is used twice; POLICY has two for each change it makes.

    Below 200 are those of images, and from there on those of sound.
    """

    ROTATION = 0
    SHIFT_X = 1
    SHIFT_Y = 2
    SCALE = 3
    PAD_CROP_X = 4
    PAD_CROP_Y = 5
    CROP_AREA = 6
    CROP_ASPECT = 7
    CROP_X = 8
    CROP_Y = 9
    HORIZONTAL_FLIP = 10
    VERTICAL_FLIP = 11
    BRIGHTNESS = 12
    CONTRAST = 13
    SATURATION = 14
    HUE = 15
    ERASE = 16
    ERASE_AREA = 17
    ERASE_ASPECT = 18
    ERASE_X = 19
    ERASE_Y = 20
    ERASE_NOISE = 21
    MIX = 22
    MIX_KIND = 23
    PARTNER = 24
    MIXUP_RATIO = 25
    CUTMIX_RATIO = 26
    CUTMIX_X = 27
    CUTMIX_Y = 28
    SHEAR = 29
    POLICY = 100
    CLIP_START = 200
    SPEED = 201
    PITCH = 202
    CLIP_SHIFT = 203
    NOISE = 204
    NOISE_SNR = 205
    NOISE_FILE = 206
    NOISE_START = 207
    NOISE_SEED = 208
    GAIN = 209
    TIME_MASK = 210
    TIME_MASK_START = 211
    FREQUENCY_MASK = 212
    FREQUENCY_MASK_START = 213


@dataclass(frozen=True)
class Keys:
    """Whose numbers are drawn.

    Attributes:
        seed: The run's seed.
        epochs: int64 `[B]`.
        indices: int64 `[B]`, rows in the training split.
    """

    seed: int
    epochs: NDArray[np.int64]
    indices: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp] | slice) -> Keys:
        """The keys of some of the examples."""
        return Keys(self.seed, self.epochs[rows], self.indices[rows])

    def uniform(self, draw: int, numbers: ArrayLike | None = None) -> NDArray[np.float64]:
        """One number in [0, 1) for each example; see `keyed_random.uniform`."""
        return uniform(self.seed, self.epochs, self.indices, draw, numbers)

    def signed(self, draw: int) -> NDArray[np.float64]:
        """One number in [-1, 1) for each example."""
        return 2 * self.uniform(draw) - 1

    def between(self, low: ArrayLike, high: ArrayLike, draw: int) -> NDArray[np.float64]:
        """One number from `low` up to `high` for each example."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        numbers: NDArray[np.float64] = low + (high - low) * self.uniform(draw)
        return numbers

    def whole(self, sizes: ArrayLike, draw: int) -> NDArray[np.int64]:
        """One of 0 … size - 1 for each example."""
        numbers: NDArray[np.float64] = np.floor(self.uniform(draw) * np.asarray(sizes))
        return numbers.astype(np.int64)
