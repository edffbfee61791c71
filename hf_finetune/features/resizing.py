"""Resizes batches of images exactly as Pillow does, as two matrix products.

The image collator's resize. Each pass multiplies by a matrix of filter weights; images of whole
levels are rounded to whole levels after each pass, in arithmetic that can't err, so that they equal
`PIL.Image.resize` in every pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import Tensor

_FRACTION_BITS = 22  # Pillow's weights of whole levels are integers over 2^22
_PILLOW_SAVES_ROWS = int(PIL.__version__.split(".")[0]) >= 13
_LARGEST_PRODUCT = 64 * 64  # pixels; from larger images on Pillow's own loop is quicker
_BLOCK_PIXELS = 16 * 224 * 224
_BAND_ROWS = 56  # of the result at a time
_SINGLE_BITS = 15  # float32 sums weights of up to this many fraction bits times levels exactly


@dataclass(frozen=True)
class _Filter:
    """A resampling filter: its weight at a distance (in pixels), and where it ends."""

    reach: float
    weight: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _box(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return ((distance > -0.5) & (distance <= 0.5)).astype(np.float64)


def _bilinear(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(distance) < 1, 1 - np.abs(distance), 0)


def _hamming(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    window = np.sinc(distance) * (0.54 + 0.46 * np.cos(np.pi * distance))
    return np.where(np.abs(distance) < 1, window, 0)


def _bicubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    a, d = -0.5, np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def _lanczos(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)


_FILTERS = {
    Resampling.BOX: _Filter(0.5, _box),
    Resampling.BILINEAR: _Filter(1.0, _bilinear),
    Resampling.HAMMING: _Filter(1.0, _hamming),
    Resampling.BICUBIC: _Filter(2.0, _bicubic),
    Resampling.LANCZOS: _Filter(3.0, _lanczos),
}
FILTERS = (Resampling.NEAREST, *_FILTERS)
"""What `resize` knows."""


Window = tuple[slice, slice]
"""Rows and columns of an image."""

_ALL: Window = (slice(None), slice(None))


def resize(
    images: Tensor,
    height: int,
    width: int,
    resample: int,
    *,
    whole_levels: bool,
    window: Window = _ALL,
) -> Tensor:
    """Resizes a batch of images; shrinking widens the filter, so that nothing is skipped.

    Args:
        images: float32 `[..., H, W]`; with `whole_levels` whole numbers 0…255.
        height: Pixels of the result.
        width: Pixels of the result.
        resample: One of `FILTERS`.
        whole_levels: Round each pass to whole levels and clip it to 0…255, as Pillow does with
            8-bit images; otherwise nothing is rounded, as Pillow does with float images.
        window: What of the result is wanted; the rest is not computed where that saves time.

    Returns:
        float32 `[..., height, width]`, or the window of that; nothing is copied where the size is
        right already.

    Source:
        Pillow, src/libImaging/Resample.c and (nearest) Geometry.c.
    """
    old_height, old_width = images.shape[-2:]
    if (old_height, old_width) == (height, width):
        return images[..., *window]
    rows, columns = window
    if resample == Resampling.NEAREST:
        by_rows, by_columns = (
            _nearest(old_height, height)[rows],
            _nearest(old_width, width)[columns],
        )
        return images[..., by_rows, :][..., by_columns]
    planes = images.reshape(-1, old_height, old_width)
    if whole_levels and old_height * old_width > _LARGEST_PRODUCT:
        resized = _resize_by_pillow(planes, height, width, resample)[..., *window]
    else:
        resized = _resize_by_products(planes, height, width, resample, whole_levels, window)
    return resized.reshape(*images.shape[:-2], *resized.shape[-2:])


def _resize_by_pillow(planes: Tensor, height: int, width: int, resample: int) -> Tensor:
    """Resizes `[N, H, W]` of whole levels one by one, as large images are quicker done."""
    resized = np.empty((len(planes), height, width), dtype=np.float32)
    for plane, result in zip(planes.to(torch.uint8).numpy(), resized, strict=True):
        result[:] = np.asarray(
            PIL.Image.fromarray(plane).resize((width, height), Resampling(resample))
        )
    return torch.from_numpy(resized)


def _resize_by_products(
    planes: Tensor, height: int, width: int, resample: int, whole_levels: bool, window: Window
) -> Tensor:
    """Resizes `[N, H, W]`, whole or not, as two matrix products."""
    old_height, old_width = planes.shape[-2:]
    rows, columns = window
    by_rows, by_columns = None, None  # a side that keeps its size needs no product
    if old_height == height:
        planes = planes[:, rows]
    else:
        by_rows = _weights(old_height, height, resample, whole_levels)[rows]
    if old_width == width:
        planes = planes[..., columns]
    else:
        by_columns = _weights(old_width, width, resample, whole_levels)[columns]
    # The order of the passes shows in the rounding. Pillow's was columns first until 13.0 (#9549).
    rows_first = _PILLOW_SAVES_ROWS and old_height - height > max(2 * (old_width - width), 0)
    weights = [weights for weights in (by_rows, by_columns) if weights is not None]
    if any(one.dtype == torch.float64 for one in weights):
        bands = None
        if by_rows is not None:
            bands = _bands(old_height, height, resample, *rows.indices(height)[:2])
        return _resize_in_strips(planes, bands, by_columns, rows_first)
    if rows_first:
        planes = _multiply_rows(by_rows, planes, whole_levels)
    planes = _multiply_columns(planes, by_columns, whole_levels)
    return planes if rows_first else _multiply_rows(by_rows, planes, whole_levels)


@dataclass(frozen=True)
class _Band:
    """New rows that lie together.

    Attributes:
        rows: Where they lie, of those that are wanted.
        old_rows: All that they are made of.
        weights: Of those in these: `[new, old]`.
    """

    rows: slice
    old_rows: slice
    weights: Tensor


@lru_cache(maxsize=64)
def _bands(old: int, new: int, resample: int, first: int, past: int) -> tuple[_Band, ...]:
    """The rows `first … past - 1` of Pillow's weights of whole levels, without most of the zeros.

    A new row is made of a few old ones; a product with all of them would multiply mostly by 0.
    """
    weights = _weights(old, new, resample, True)[first:past].double()
    bands = []
    for start in range(0, len(weights), _BAND_ROWS):
        part = weights[start : start + _BAND_ROWS]
        used = part.any(dim=0).nonzero()
        old_rows = slice(int(used[0]), int(used[-1]) + 1)
        rows = slice(start, start + len(part))
        bands.append(_Band(rows, old_rows, part[:, old_rows].contiguous()))
    return tuple(bands)


def _resize_in_strips(
    planes: Tensor, bands: tuple[_Band, ...] | None, by_columns: Tensor | None, rows_first: bool
) -> Tensor:
    """Resizes `[N, H, W]` of whole levels in float64, some images at a time.

    They lie side by side, so that one product is for all of them, and stay in the cache.
    """
    height = planes.shape[1] if bands is None else bands[-1].rows.stop
    width = planes.shape[2] if by_columns is None else len(by_columns)
    resized = torch.empty(len(planes), height, width)
    block_size = max(1, _BLOCK_PIXELS // (height * width))
    for block, result in zip(
        torch.split(planes, block_size), torch.split(resized, block_size), strict=True
    ):
        strips, wanted = block.transpose(0, 1).double(), result.transpose(0, 1)
        if bands is not None and rows_first:
            strips = _multiply_bands(bands, strips, strips.new_empty(height, *strips.shape[1:]))
        if by_columns is not None:
            strips = _round_levels(strips @ by_columns.double().T)
        if bands is not None and not rows_first:
            _multiply_bands(bands, strips, wanted)
        else:
            wanted.copy_(strips)
    return resized


def _multiply_bands(bands: tuple[_Band, ...], strips: Tensor, result: Tensor) -> Tensor:
    """Makes the new rows `[new, N, W]` of old ones `[old, N, W]`, in the result's memory."""
    flat = strips.reshape(len(strips), -1)
    memory = flat.new_empty(_BAND_ROWS, flat.shape[1])
    for band in bands:
        product = torch.mm(band.weights, flat[band.old_rows], out=memory[: len(band.weights)])
        result[band.rows] = _round_levels(product).view(-1, *strips.shape[1:])
    return result


def _multiply_columns(planes: Tensor, weights: Tensor | None, whole_levels: bool) -> Tensor:
    if weights is None:
        return planes
    return _multiply(planes.to(weights.dtype), weights.T.expand(len(planes), -1, -1), whole_levels)


def _multiply_rows(weights: Tensor | None, planes: Tensor, whole_levels: bool) -> Tensor:
    if weights is None:
        return planes
    return _multiply(weights.expand(len(planes), -1, -1), planes.to(weights.dtype), whole_levels)


def _multiply(left: Tensor, right: Tensor, whole_levels: bool) -> Tensor:
    """Products of matrices `[N, …, …]`; rounded (halves up) and clipped where levels are whole."""
    if not whole_levels:
        return torch.bmm(left, right)
    return _round_levels(torch.bmm(left, right))


def _round_levels(sums: Tensor) -> Tensor:
    """Whole levels, in the same memory: halves up, and clipped."""
    return sums.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _nearest(old: int, new: int) -> Tensor:
    """The old pixel that each new one shows: int64 `[new]`."""
    step = old / new
    # Pillow adds the step up pixel by pixel; only the same sum rounds the same way.
    places = np.cumsum(np.concatenate([[step * 0.5], np.full(new - 1, step)]))
    return torch.from_numpy(np.minimum(places.astype(np.int64), old - 1))


@lru_cache(maxsize=64)
def _weights(old: int, new: int, resample: int, whole_levels: bool) -> Tensor:
    """Weight of each old pixel in each new one: `[new, old]`.

    With `whole_levels` Pillow's fixed-point weights, in float32 where that sums them exactly (as
    from 28 to 224 pixels, bilinear) and else in float64, which always does.
    """
    weights = _float_weights(old, new, _FILTERS[Resampling(resample)])
    if not whole_levels:
        return torch.from_numpy(weights.astype(np.float32))
    fixed = np.trunc(weights * 2.0**_FRACTION_BITS + np.copysign(0.5, weights))
    single = not np.any(fixed % 2.0 ** (_FRACTION_BITS - _SINGLE_BITS))
    dtype = np.float32 if single else np.float64
    return torch.from_numpy((fixed / 2.0**_FRACTION_BITS).astype(dtype))


def _float_weights(old: int, new: int, filter_: _Filter) -> NDArray[np.float64]:
    """Pillow's `precompute_coeffs`: float64 `[new, old]`, each row summing to 1."""
    step = old / new
    stretch = max(step, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * step
    reach = filter_.reach * stretch
    first = np.maximum(np.trunc(centres - reach + 0.5), 0)
    past = np.minimum(np.trunc(centres + reach + 0.5), old)
    pixels = np.arange(old)[None, :]
    weights = filter_.weight((pixels - centres + 0.5) * (1 / stretch))
    weights[(pixels < first) | (pixels >= past)] = 0
    weights /= weights.sum(axis=1, keepdims=True)
    return weights
