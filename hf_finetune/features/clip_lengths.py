"""How long clips must be, may be, and which part of a longer one is taken.

Plain whole-number arithmetic for the audio collator; nothing here touches a sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def window_starts(num_frames: int, length: int, num_windows: int) -> list[int]:
    """Where to cut a clip for evaluation.

    Args:
        num_frames: Frames of the clip.
        length: Frames to take at a time.
        num_windows: How many windows at most; no more than cover the clip.

    Returns:
        The first frame of each window: of one the middle, of several evenly spread from the clip's
        start to its end, and 0 alone for a clip that is no longer than a window.
    """
    spare = max(num_frames - length, 0)
    count = min(num_windows, -(-num_frames // length))
    if count == 1:
        return [spare // 2]
    return [round(spare * number / (count - 1)) for number in range(count)]


def random_starts(
    num_frames: NDArray[np.int64], lengths: NDArray[np.int64], numbers: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Where to cut clips in training.

    Args:
        num_frames: int64 `[B]`, frames of each clip.
        lengths: int64 `[B]`, frames to take of each.
        numbers: float64 `[B]` in [0, 1), uniform.

    Returns:
        int64 `[B]`, first frames, every possible one as likely.
    """
    choices = np.maximum(num_frames - lengths, 0) + 1
    starts: NDArray[np.int64] = np.floor(numbers * choices).astype(np.int64)
    return starts


def common_width(length: int) -> int:
    """The width that a training batch is padded to whose longest clip has this length.

    One of 16 an octave: 2 % more on average, 6 % at most. A processor's kernels are compiled for
    each new width, and kept for the latest; widths that come again find theirs ready.

    Args:
        length: In samples, or in frames.
    """
    step = 1 << max(length.bit_length() - 5, 0)
    return -(-length // step) * step


def least_samples(config: Any) -> int:
    """Samples of the shortest clip that a model can take: its receptive field.

    Args:
        config: The model's; read are `conv_kernel` and `conv_stride` (wav2vec2 and its like) and
            `squeeze_factor` (SEW). 1 where there are none.

    Source:
        Baevski et al. 2020, "wav2vec 2.0", §4.2: 25 ms, 400 samples, for wav2vec2-base.
    """
    return _samples_of(config, getattr(config, "squeeze_factor", 1))


def least_training_frames(config: Any) -> int:
    """Frames that a batch must be wide for a model's own masking in training; 1 if it has none.

    transformers refuses to mask `mask_time_length` frames where a whole batch has fewer, as a batch
    of equally short clips does.
    """
    if not getattr(config, "apply_spec_augment", True) or not getattr(config, "mask_time_prob", 0):
        return 1
    return int(config.mask_time_length)


def least_training_samples(config: Any) -> int:
    """Samples that make `least_training_frames`; 1 where that is 1."""
    frames = least_training_frames(config)
    return 1 if frames == 1 else _samples_of(config, frames)


def _samples_of(config: Any, frames: int) -> int:
    """Samples that a model's convolutions need to make some frames."""
    kernels = getattr(config, "conv_kernel", None)
    if not isinstance(kernels, (list, tuple)):
        return 1
    samples = frames
    for kernel, stride in zip(reversed(kernels), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
