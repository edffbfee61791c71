"""Turns sound into log-mel spectrograms for the networks trained from scratch.

It knows nothing of this package, so that a copy of this file can go with the weights to the Hub.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

# Power below this is as good as silence: the rounding of 16-bit sound makes about as much.
FLOOR = 1e-6


class LogMelFeatureExtractor(SequenceFeatureExtractor):  # type: ignore[misc]  # no types
    """Waveforms to spectrograms: the logarithm of the power in bands of pitch, over time.

    The answer's `input_values` are float32 `[B, 1, n_mels, frames]`, low bands first, normalised by
    `mean` and `std`; what is padded is 0, the mean. `attention_mask`, where it is returned, is
    int32 `[B, frames]`, 1 where there is sound. A clip of T samples has 1 + T // hop_length frames.

    Args:
        sampling_rate: Samples a second of the waveforms.
        n_fft: Samples that one frame looks at.
        hop_length: Samples from one frame to the next.
        n_mels: Bands.
        f_min: Lower end of the lowest band, in Hz.
        f_max: Upper end of the highest band, in Hz; None: half the sampling rate.
        num_frames: Cut or pad every clip to this many frames; None: pad to the longest of a batch.
        mean: Mean of the training clips' log-mel values, one number or one a band; see `measure`.
        std: Their standard deviation, likewise.
        return_attention_mask: Whether to return a mask; None: where lengths may differ.

    Raises:
        ValueError: A setting is out of range, or there are more bands than `n_fft` can tell apart.

    Source:
        Slaney, "Auditory Toolbox", 1998 (mel scale, area-normalised triangles).
    """

    model_input_names = ["input_values", "attention_mask"]  # noqa: RUF012  # as the base class

    def __init__(  # noqa: PLR0913  # one for each setting of a saved file
        self,
        *,
        sampling_rate: int = 16000,
        n_fft: int = 400,
        hop_length: int = 160,
        n_mels: int = 64,
        f_min: float = 20.0,
        f_max: float | None = None,
        num_frames: int | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        return_attention_mask: bool | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("feature_size", None)  # of a saved one: it is n_mels
        kwargs.pop("padding_value", None)
        if return_attention_mask is None:
            return_attention_mask = num_frames is None
        super().__init__(
            feature_size=n_mels,
            sampling_rate=sampling_rate,
            padding_value=0.0,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.n_mels = n_mels
        self.f_min = f_min
        self.f_max = sampling_rate / 2 if f_max is None else f_max
        self.num_frames = num_frames
        self.mean = mean
        self.std = std
        self._check()
        # Saved files leave out what has these two names.
        self.mel_filters = _mel_filters(self)
        self.window = torch.hann_window(n_fft)

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Spectrograms of one waveform or of several.

        Args:
            raw_speech: float `[T]`, arrays, tensors or lists; or several of them, of any lengths.
            sampling_rate: The waveforms' own, to be checked against the extractor's.
            return_tensors: `pt` or `np`; None is `np`.
            return_attention_mask: Overrides the setting.
            **kwargs: What other extractors take, of no meaning here.

        Raises:
            ValueError: The rate is another, a waveform has no sample, or has several channels.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(
                f"sampling_rate: got {sampling_rate}, the network was built for "
                f"{self.sampling_rate}. Resample the sound first."
            )
        single = np.ndim(raw_speech[0]) == 0
        waveforms = [_as_waveform(clip) for clip in ([raw_speech] if single else raw_speech)]
        batch = self.extract_batch(waveforms, return_attention_mask)
        if return_tensors != "pt":
            return BatchFeature({name: value.numpy() for name, value in batch.items()})
        return BatchFeature(batch)

    def extract_batch(
        self, waveforms: Sequence[Tensor], return_attention_mask: bool | None = None
    ) -> dict[str, Tensor]:
        """The model's inputs, all clips at a time.

        Args:
            waveforms: float32 `[T]` each, at the extractor's rate.
            return_attention_mask: Overrides the setting.
        """
        lengths = torch.tensor([self.count_frames(len(clip)) for clip in waveforms])
        log_mel = self.log_mel(waveforms)
        mean, std = (torch.as_tensor(v).float().reshape(-1, 1) for v in (self.mean, self.std))
        mask = torch.arange(log_mel.shape[-1]) < lengths[:, None]
        normal = torch.where(mask[:, None], (log_mel - mean) / std, self.padding_value)
        batch = {"input_values": normal[:, None]}
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            batch["attention_mask"] = mask.to(torch.int32)
        return batch

    def count_frames(self, num_samples: int) -> int:
        """Frames of a clip of so many samples, without padding."""
        frames = 1 + num_samples // self.hop_length
        return frames if self.num_frames is None else min(frames, self.num_frames)

    def log_mel(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Spectrograms before they are normalised: float32 `[B, n_mels, frames]`, log of power.

        Beyond a clip's own frames it holds the logarithm of silence, `log(FLOOR)`.
        """
        frames = self.num_frames or max(self.count_frames(len(clip)) for clip in waveforms)
        padded = torch.zeros(len(waveforms), (frames - 1) * self.hop_length + self.n_fft)
        for row, clip in zip(padded, waveforms, strict=True):
            row[: len(clip)] = clip[: len(row)]
        stft = torch.stft(
            padded,
            self.n_fft,
            self.hop_length,
            window=self.window,
            center=True,
            pad_mode="constant",
            return_complex=True,
        )[..., :frames]
        power = stft.real.square() + stft.imag.square()
        mel: Tensor = self.mel_filters.T @ power
        return mel.add_(FLOOR).log_()

    def measure(self, batches: Iterable[Sequence[Tensor]]) -> tuple[float, float]:
        """Mean and standard deviation of log-mel values, to be set as `mean` and `std`.

        Args:
            batches: Training clips, float32 `[T]` each, some at a time.
        """
        count, total, squares = 0, 0.0, 0.0
        for waveforms in batches:
            for clip, values in zip(waveforms, self.log_mel(waveforms).double(), strict=True):
                own = values[:, : self.count_frames(len(clip))]
                count += own.numel()
                total += float(own.sum())
                squares += float(own.square().sum())
        mean = total / count
        return mean, max(squares / count - mean**2, 0.0) ** 0.5

    def _check(self) -> None:
        for name, least in (("sampling_rate", 1), ("n_fft", 2), ("hop_length", 1), ("n_mels", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: got {getattr(self, name)}. Allowed: {least} or more.")
        if self.num_frames is not None and self.num_frames < 1:
            raise ValueError(f"num_frames: got {self.num_frames}. Allowed: 1 or more, or None.")
        if not 0 <= self.f_min < self.f_max <= self.sampling_rate / 2:
            raise ValueError(
                f"f_min, f_max: got {self.f_min:g} and {self.f_max:g} Hz. Allowed: from 0 up to "
                f"half the sampling rate, {self.sampling_rate / 2:g} Hz, f_min below f_max."
            )
        for name in ("mean", "std"):
            value = np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64))
            low = 0 if name == "std" else -np.inf
            if value.shape not in ((1,), (self.n_mels,)) or not np.all(
                (value > low) & np.isfinite(value)
            ):
                raise ValueError(
                    f"{name}: got {getattr(self, name)}. Allowed: one finite number, or one for "
                    f"each of {self.n_mels} bands{', above 0' if name == 'std' else ''}."
                )


def _mel_filters(extractor: LogMelFeatureExtractor) -> Tensor:
    """Weights of each band: float32 `[1 + n_fft // 2, n_mels]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty bands: they are refused below
        filters = mel_filter_bank(
            num_frequency_bins=1 + extractor.n_fft // 2,
            num_mel_filters=extractor.n_mels,
            min_frequency=extractor.f_min,
            max_frequency=extractor.f_max,
            sampling_rate=extractor.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
    if not filters.any(axis=0).all():
        raise ValueError(
            f"n_mels: {extractor.n_mels} bands from {extractor.f_min:g} to {extractor.f_max:g} Hz "
            f"are more than n_fft {extractor.n_fft} can tell apart. Take fewer, or a larger n_fft."
        )
    return torch.from_numpy(filters).float()


def _as_waveform(clip: Any) -> Tensor:
    """A clip as float32 `[T]`."""
    waveform = torch.as_tensor(clip, dtype=torch.float32)
    if waveform.ndim != 1 or not len(waveform):
        raise ValueError(
            f"raw_speech: got a clip of shape {list(waveform.shape)}. Allowed: [samples], at least "
            "one, of one channel. Mix channels by their mean."
        )
    return waveform
