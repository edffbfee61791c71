"""Changes the sampling rate, and with it the speed, of waveforms.

The audio collator brings every clip to its model's rate with it, clip by clip: the last bits of a
convolution depend on what it is batched with, and a clip's samples must not.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import gcd
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

# 256 MB of filter: where two rates share no factor (22,051 and 16,000 Hz) it would be 1.4 GB.
_MOST_WEIGHTS = 2**26
# A convolution is compiled for each new length, which takes longer than the work itself. So longer
# clips are filled up with zeros to a few lengths. (Shorter ones would get other last bits.)
_BLOCK, _LEAST_FILLED_UP = 2**13, 3 * 2**13


def resample(waveform: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """A waveform at another rate, equal to `torchaudio.functional.resample` in every bit.

    The filter is kept from call to call, which is most of the work.

    Args:
        waveform: float32 `[T]`.
        from_hz: Its sampling rate.
        to_hz: The one to bring it to.

    Returns:
        float32 `[ceil(T * to_hz / from_hz)]`; the waveform itself where the rates agree.

    Raises:
        ValueError: The rates have so little in common that the filter would fill the memory.

    Source:
        Smith, "Digital Audio Resampling Home Page", windowed sinc interpolation, as torchaudio
        does it.
    """
    if from_hz == to_hz:
        return waveform
    check_rates(from_hz, to_hz)
    common = gcd(from_hz, to_hz)
    num_samples = -(-len(waveform) * to_hz // from_hz)
    if len(waveform) >= _LEAST_FILLED_UP:
        waveform = pad(waveform, (0, -len(waveform) % _BLOCK))
    resampled: Tensor = _filter(from_hz // common, to_hz // common)(waveform)
    return resampled[:num_samples]


def check_rates(from_hz: int, to_hz: int) -> None:
    """Makes sure that waveforms can be brought from one rate to another.

    Raises:
        ValueError: As `resample`.
    """
    common = gcd(from_hz, to_hz)
    if from_hz // common * (to_hz // common) > _MOST_WEIGHTS:
        raise ValueError(
            f"{from_hz:,} Hz can't be resampled to {to_hz:,} Hz: they share no large factor. "
            "Allowed: rates such as 8000, 16000, 22050, 44100, 48000. Convert the file."
        )


def change_speed(waveform: Tensor, factor: float) -> Tensor:
    """A waveform played faster or slower; its pitch moves along.

    Args:
        waveform: float32 `[T]`.
        factor: Above 1 is faster; read as whole hundredths.

    Returns:
        float32 `[ceil(T / factor)]`.
    """
    ratio = Fraction(round(factor * 100), 100)
    return resample(waveform, ratio.numerator, ratio.denominator)


@lru_cache(maxsize=64)
def _filter(from_hz: int, to_hz: int) -> Any:
    """The resampler of torchaudio between two rates, with the weights of its function.

    Left to itself the class computes them in float64, and the function in float32.
    """
    from torchaudio.transforms import Resample

    return Resample(from_hz, to_hz, dtype=torch.float32)
