"""Numbers and mean images of many images, gathered block by block.

Place: `inspection` feeds them; memory doesn't grow with the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_MEAN_SIDE = 96  # a mean image takes every n-th pixel, so that it has about this many on a side


@dataclass
class PixelFacts:
    """Numbers of a split's images; pixels count on the scale 0…1.

    Attributes:
        sizes: Every (height, width) that occurs.
        dtypes: Every type that occurs: uint8, float32.
        channels: 1 (grey) or 3 (red, green, blue).
        least: Smallest pixel.
        greatest: Largest pixel.
    """

    sizes: set[tuple[int, int]] = field(default_factory=set)
    dtypes: set[str] = field(default_factory=set)
    channels: int = 1
    least: float = np.inf
    greatest: float = -np.inf
    _count: int = 0
    _sum: np.ndarray = field(default_factory=lambda: np.zeros(1))
    _squares: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, images: np.ndarray) -> None:
        """Counts images, uint8 or float32 `[B, H, W, C]`."""
        self.sizes.add((images.shape[1], images.shape[2]))
        self.dtypes.add(images.dtype.name)
        self.channels = max(self.channels, images.shape[3])
        pixels = to_unit_scale(images).reshape(-1, images.shape[3])
        self.least = min(self.least, float(pixels.min()))
        self.greatest = max(self.greatest, float(pixels.max()))
        self._count += len(pixels)
        self._sum = self._sum + pixels.sum(0)
        self._squares = self._squares + (pixels**2).sum(0)

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest pixel."""
        return self.least, self.greatest

    @property
    def mean(self) -> np.ndarray:
        """Mean of all pixels, float64 `[channels]`."""
        return np.asarray(self._sum / self._count)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of all pixels, float64 `[channels]`."""
        return np.asarray(np.sqrt(np.maximum(self._squares / self._count - self.mean**2, 0)))


class MeanImages:
    """Mean images of some kinds of images; none where the images differ in size.

    Args:
        kinds: How many.
    """

    def __init__(self, kinds: int) -> None:
        self._counts = np.zeros(kinds)
        self._sums: np.ndarray | None = None
        self._shape: tuple[int, ...] | None = None

    def add(self, images: np.ndarray, kinds: np.ndarray) -> None:
        """Adds images to their kinds.

        Args:
            images: uint8 or float32 `[B, H, W, C]`.
            kinds: int64 `[B]`; an image of kind -1 belongs to none.
        """
        if self._shape is None:
            self._shape = images.shape[1:]
        if self._shape != images.shape[1:]:
            self._sums, self._counts = None, np.zeros(0)
        if not len(self._counts):
            return
        step = max(1, min(images.shape[1:3]) // _MEAN_SIDE)
        thin = to_unit_scale(images[:, ::step, ::step])
        belongs = np.equal.outer(np.arange(len(self._counts)), kinds).astype(np.float64)
        sums = np.tensordot(belongs, thin, axes=1)
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts += belongs.sum(1)

    def means(self) -> np.ndarray | None:
        """float64 `[kinds, H, W, C]` on the scale 0…1; NaN for a kind without images."""
        if self._sums is None:
            return None
        counts = np.where(self._counts > 0, self._counts, np.nan)
        return np.asarray(self._sums / counts[:, None, None, None])


def to_unit_scale(images: np.ndarray) -> np.ndarray:
    """Pixels uint8 (0…255) or float32 (0…1) as float64 on the scale 0…1."""
    return images / 255.0 if images.dtype == np.uint8 else images.astype(np.float64)
