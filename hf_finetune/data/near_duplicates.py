"""Finds examples that are nearly the same: an image saved again, a clip at another loudness.

Place: `audit` asks for them. Each example becomes a short vector of its coarse structure, and a
tree finds vectors that lie close together, so that no example is compared with every other.
"""

from __future__ import annotations

from functools import cache
from math import log10

import numpy as np
from numpy.typing import NDArray
from scipy.signal.windows import hann
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

# Chosen on handwritten and on spoken digits, which are more alike than most examples. An image
# saved as JPEG of quality 75, dimmed or enlarged stays within it, and so do nine of ten clips at
# another rate or saved as ogg. Of the digits, only some plain strokes lie so near to others.
LARGEST_DISTANCE = 0.06
_FREQUENCIES = 8
_TREE_SIZE = 20  # the coarsest entries tell nearly everything, and a larger tree is slower
_NEIGHBOURS = 9  # of each example, itself among them
_LEAST_CONTRAST = 1e-3
_EDGE = 0.001  # of a clip's energy, before which and after which it isn't looked at
_FLOOR = 1e-4  # of the largest energy: what is softer is noise as likely as not
_BANDS, _FRAMES, _LOWEST_HZ, _HIGHEST_HZ = 24, 32, 100.0, 3800.0
_WINDOW_SECONDS, _MOST_WINDOWS = 0.032, 4096

Vectors = NDArray[np.float32]


def describe_images(images: np.ndarray) -> Vectors:
    """The coarse structure of images of one shape: a perceptual hash that keeps its numbers.

    Grey levels are written as cosine waves along both sides, and the 8 × 8 slowest of them are
    kept without the mean, scaled to length 1. So brightness, contrast, size and format don't count.

    Args:
        images: uint8 or float `[B, H, W, C]`.

    Returns:
        float32 `[B, 63]`, the slowest waves first; zeros for an image without contrast.

    Source: C. Zauner, Implementation and benchmarking of perceptual image hash functions, 2010,
        the hash based on the cosine transform, without its last step to bits.
    """
    grey = images.mean(axis=3, dtype=np.float32) / (255 if images.dtype == np.uint8 else 1)
    height, width = grey.shape[1:]
    return _shorten(_waves(height) @ grey @ _waves(width).T, np.sqrt(height * width))


def describe_clip(samples: np.ndarray, rate_hz: int) -> Vectors:
    """The coarse structure of a clip: as `describe_images`, of its spectrogram.

    Energy in 24 bands of pitch (100 to 3,800 Hz, equal on the mel scale) over 32 equal parts of
    the time, in decibels; quiet ends are cut off. So loudness, rate, format and the silence around
    the sound don't count.

    Args:
        samples: float `[num_samples]`.
        rate_hz: Samples a second.

    Returns:
        float32 `[63]`; zeros for silence.
    """
    size = max(16, int(_WINDOW_SECONDS * rate_hz))
    energy = np.cumsum(np.square(samples, dtype=np.float64))
    start, stop = np.searchsorted(energy, [_EDGE * energy[-1], (1 - _EDGE) * energy[-1]])
    if energy[-1] == 0 or stop - start < 2 * size:
        return np.zeros(_FREQUENCIES**2 - 1, np.float32)
    sound = samples[start : stop + 1]
    hop = max(1, min(size // 2, len(sound) // (2 * _FRAMES)), len(sound) // _MOST_WINDOWS)
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop] * hann(size)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    parts = np.array_split(_bands(power.shape[1], rate_hz) @ power.T, _FRAMES, axis=1)
    mean = np.stack([part.mean(axis=1) for part in parts if part.shape[1]], axis=1)
    decibels = 10 * np.log10(np.maximum(mean, mean.max() * _FLOOR))
    waves = _waves(len(decibels)) @ decibels @ _waves(decibels.shape[1]).T
    vector: Vectors = _shorten(waves[None], np.sqrt(decibels.size))[0]
    return vector


def find_near(vectors: Vectors) -> list[list[int]]:
    """Sets of examples whose vectors lie close together, directly or through others of the set.

    Args:
        vectors: float32 `[N, 63]`, of length 1; zeros are like nothing.

    Returns:
        Row numbers of each set, rising; sets in the order of their first rows.
    """
    rows = np.flatnonzero(vectors.any(axis=1))
    if len(rows) < 2:
        return []
    known = vectors[rows]
    coarse = np.ascontiguousarray(known[:, :_TREE_SIZE])
    distances, others = cKDTree(coarse).query(
        coarse, min(_NEIGHBOURS, len(rows)), distance_upper_bound=LARGEST_DISTANCE, workers=-1
    )
    first, place = np.nonzero(np.isfinite(distances))
    second = others[first, place]
    gaps = np.linalg.norm(known[first] - known[second], axis=1)
    is_near = (gaps < LARGEST_DISTANCE) & (first != second)
    first, second = first[is_near], second[is_near]
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(len(rows),) * 2)
    _, component = connected_components(graph, directed=False)
    sets: dict[int, list[int]] = {}
    for place in np.union1d(first, second):
        sets.setdefault(int(component[place]), []).append(int(rows[place]))
    return list(sets.values())


def _shorten(waves: np.ndarray, scale: float) -> Vectors:
    """Waves `[B, 8, 8]` in the order of their frequency, without the mean, at length 1."""
    steps = np.arange(_FREQUENCIES)
    order = np.argsort(np.add.outer(steps**2, steps**2), axis=None, kind="stable")[1:]
    vectors = waves.reshape(len(waves), -1)[:, order]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    is_plain = lengths < _LEAST_CONTRAST * scale
    short: Vectors = np.where(is_plain, 0, vectors / np.where(is_plain, 1, lengths)).astype("f4")
    return short


@cache
def _waves(size: int) -> Vectors:
    """The slowest cosine waves over a side, float32 `[8, size]`; zeros where it has fewer."""
    steps = np.arange(_FREQUENCIES)[:, None]
    waves = np.cos(np.pi / size * steps * (np.arange(size) + 0.5)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    waves[size:] = 0
    known: Vectors = waves.astype(np.float32)
    return known


@cache
def _bands(num_bins: int, rate_hz: int) -> NDArray[np.float64]:
    """Which frequencies of a spectrum belong to which band, `[24, num_bins]`; means, not sums."""
    hertz = np.linspace(0, rate_hz / 2, num_bins)
    low, high = (2595 * log10(1 + end / 700) for end in (_LOWEST_HZ, _HIGHEST_HZ))
    edges = 700 * (10 ** (np.linspace(low, high, _BANDS + 2) / 2595) - 1)
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rising, falling))
    share: NDArray[np.float64] = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    return share
