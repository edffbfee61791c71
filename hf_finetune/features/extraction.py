"""Does what transformers' audio feature extractors do clip by clip, for whole batches in torch.

The last step of the audio collator. An extractor that isn't known here, or answers otherwise than
its settings say, is called itself: slower, and never wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BLOCK_FRAMES = 2048  # of a spectrogram at a time: they stay in the cache
_MOST_APART = 1e-4  # features of the two ways; they are of the order of 1
_LEAST_ENERGY = torch.finfo(torch.float32).eps  # Kaldi's floor under a logarithm


class Extractor(ABC):
    """Turns clips into what a model takes.

    Attributes:
        sampling_rate_hz: Rate of the clips.
        least_samples: Shortest clip that can be turned into features.
        most_samples: What lies beyond would be cut off; None: nothing is.
        makes_spectrograms: Whether `frames` can tell time and frequency of what comes out.
        pads_to_width: Whether a batch can be made wider than its longest clip.
        gives_mask: Whether the processor asks for an attention mask.
        settings: Everything that the processor is set to, by name.
    """

    least_samples = 1
    most_samples: int | None = None
    makes_spectrograms = True
    pads_to_width = False

    def __init__(self, processor: Any) -> None:
        self.sampling_rate_hz = int(processor.sampling_rate)
        self.gives_mask = bool(getattr(processor, "return_attention_mask", False))
        self.settings: dict[str, Any] = processor.to_dict()

    @abstractmethod
    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """The model's inputs.

        Args:
            clips: float32 `[T]` each, of any lengths.
            least_width: Samples to pad to at least, where `pads_to_width`.

        Returns:
            `input_values` or `input_features`: float32 `[B, …]`; and `attention_mask`: int32
            `[B, …]`, exactly where the processor's `return_attention_mask` says so.
        """

    def frames(self, batch: dict[str, Tensor]) -> Tensor:
        """A view `[B, time, frequency]` of a batch of spectrograms."""
        raise NotImplementedError

    def count_frames(self, num_samples: int) -> int:
        """Frames of such a view that a clip fills."""
        raise NotImplementedError


def extractor_for(processor: Any) -> Extractor:
    """The quickest right way to do what a processor does.

    Args:
        processor: Hugging Face feature extractor, or a processor that holds one.
    """
    processor = getattr(processor, "feature_extractor", processor)
    plain = ProcessorCalls(processor)
    if callable(getattr(processor, "extract_batch", None)):
        return LogMelSpectrograms(processor)
    kind = type(processor)
    known = (
        _KNOWN.get(kind.__name__) if kind.__module__.startswith("transformers.models.") else None
    )
    if known is None:
        return plain
    fast = known(processor)
    return fast if _agree(fast, plain) else plain


class Waveforms(Extractor):
    """Clips as they are, each with zero mean and unit variance, padded to the longest.

    As `Wav2Vec2FeatureExtractor` makes them one by one. (Given several without a mask, it counts
    the padding in: a clip then depends on its batch, which the models were not trained with.)

    Args:
        processor: Its settings are read.
    """

    makes_spectrograms = False
    pads_to_width = True

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self._normalize = bool(processor.do_normalize)
        self._padding_value = float(processor.padding_value)
        self._mask = bool(processor.return_attention_mask)

    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """`input_values` `[B, T]`; see `Extractor`."""
        lengths = [len(clip) for clip in clips]
        values = torch.full((len(clips), max(*lengths, least_width, 1)), self._padding_value)
        for row, clip in zip(values, clips, strict=True):
            # Clip by clip: padding costs nothing, and changes no last bit.
            row[: len(clip)] = _normalize(clip) if self._normalize else clip
        batch = {"input_values": values}
        if self._mask:
            filled = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
            batch["attention_mask"] = filled.to(torch.int32)
        return batch


class KaldiSpectrograms(Extractor):
    """Log-mel filter banks as Kaldi makes them, cut or padded to one length.

    As `ASTFeatureExtractor` does it with torchaudio.

    Args:
        processor: Its settings are read.

    Source:
        Gong et al. 2021, "AST: Audio Spectrogram Transformer", §2.1; Kaldi's compute-fbank-feats.
    """

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self._window, self._shift = (int(self.sampling_rate_hz * part) for part in (0.025, 0.01))
        self._num_frames = int(processor.max_length)
        self.least_samples = self._window
        self.most_samples = (self._num_frames - 1) * self._shift + self._window
        self._bins = int(processor.num_mel_bins)
        self._mean, self._scale = 0.0, 1.0
        if processor.do_normalize:
            self._mean, self._scale = float(processor.mean), 2 * float(processor.std)

    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """`input_values` `[B, max_length, num_mel_bins]`; see `Extractor`."""
        cut = [clip.unfold(0, self._window, self._shift)[: self._num_frames] for clip in clips]
        energies = torch.cat(
            [self._fbank(block) for block in torch.split(torch.cat(cut), _BLOCK_FRAMES)]
        )
        values = torch.zeros(len(clips), self._num_frames, self._bins)
        for row, own in zip(
            values, torch.split(energies, [len(frames) for frames in cut]), strict=True
        ):
            row[: len(own)] = own
        return {"input_values": values.sub_(self._mean).div_(self._scale)}

    def _fbank(self, frames: Tensor) -> Tensor:
        """Logarithm of the energy in each band, `[frames, bins]`, from samples `[frames, window]`.

        The same steps as torchaudio's `fbank`, each rounded as there.
        """
        padded_window = 1 << (self._window - 1).bit_length()
        frames = frames - frames.mean(1, keepdim=True)
        before = torch.cat((frames[:, :1], frames[:, :-1]), 1)
        frames = (frames - 0.97 * before) * torch.hann_window(self._window, periodic=False)
        power = torch.fft.rfft(frames, padded_window).abs().square()
        banks = _kaldi_banks(self._bins, padded_window, self.sampling_rate_hz)
        energies: Tensor = power @ banks
        return energies.clamp_(min=_LEAST_ENERGY).log_()

    def frames(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch itself."""
        return batch["input_values"]

    def count_frames(self, num_samples: int) -> int:
        """Windows that lie in a clip."""
        return min(1 + (num_samples - self._window) // self._shift, self._num_frames)


class WhisperSpectrograms(Extractor):
    """Log-mel spectrograms of a fixed length, a clip's quietest 80 decibels below its loudest.

    As `WhisperFeatureExtractor` does it, except that silence after the clips isn't transformed.

    Args:
        processor: Its settings are read.

    Source:
        Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision", §2.2.
    """

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self.most_samples = int(processor.n_samples)
        self._width = int(processor.n_samples)
        self._n_fft, self._hop = int(processor.n_fft), int(processor.hop_length)
        self._filters = torch.as_tensor(np.asarray(processor.mel_filters)).float().T.contiguous()
        self._mask = bool(processor.return_attention_mask)
        self._padding_value = float(processor.padding_value)

    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """`input_features` `[B, bands, frames]`; see `Extractor`."""
        longest = max(len(clip) for clip in clips) + self._n_fft
        width = min(-(-longest // self._hop) * self._hop, self._width)
        samples = torch.full((len(clips), width), self._padding_value)
        for row, clip in zip(samples, clips, strict=True):
            row[: len(clip)] = clip[:width]
        stft = torch.stft(
            samples,
            self._n_fft,
            self._hop,
            window=torch.hann_window(self._n_fft),
            return_complex=True,
        )
        mel = self._filters @ stft[..., :-1].abs().square().contiguous()
        mel = mel.clamp_(min=1e-10).log10_()
        floor = mel.amax((1, 2), keepdim=True) - 8
        silence = floor.clamp(min=-10).add_(4).div_(4)
        values = silence.repeat(1, len(self._filters), self._width // self._hop)
        values[..., : mel.shape[-1]] = mel.maximum(floor).add_(4).div_(4)
        batch = {"input_features": values}
        if self._mask:
            lengths = torch.tensor([len(clip) for clip in clips])[:, None]
            filled = torch.arange(values.shape[-1]) * self._hop < lengths
            batch["attention_mask"] = filled.to(torch.int32)
        return batch

    def frames(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch with time before frequency."""
        return batch["input_features"].transpose(1, 2)

    def count_frames(self, num_samples: int) -> int:
        """Hops that a clip fills."""
        return min(-(-num_samples // self._hop), self._width // self._hop)


class LogMelSpectrograms(Extractor):
    """The toolkit's own `LogMelFeatureExtractor`, which takes batches as it is.

    Args:
        processor: The extractor.
    """

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        frames = processor.num_frames
        self.most_samples = None if frames is None else frames * processor.hop_length
        self._processor = processor

    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """`input_values` `[B, 1, bands, frames]`; see `Extractor`."""
        batch: dict[str, Tensor] = self._processor.extract_batch(clips)
        return batch

    def frames(self, batch: dict[str, Tensor]) -> Tensor:
        """The batch with time before frequency."""
        return batch["input_values"][:, 0].transpose(1, 2)

    def count_frames(self, num_samples: int) -> int:
        """Frames of a clip."""
        count: int = self._processor.count_frames(num_samples)
        return count


class ProcessorCalls(Extractor):
    """Any feature extractor: called for each clip, and padded by its own `pad`.

    Args:
        processor: The extractor.
    """

    makes_spectrograms = False

    def __init__(self, processor: Any) -> None:
        super().__init__(processor)
        self._processor = processor

    def extract(self, clips: Sequence[Tensor], least_width: int = 0) -> dict[str, Tensor]:
        """Whatever the extractor answers with; see `Extractor`."""
        processor = self._processor
        with_mask = bool(getattr(processor, "return_attention_mask", False))
        single = [
            processor(
                clip.numpy(),
                sampling_rate=self.sampling_rate_hz,
                return_tensors="np",
                return_attention_mask=with_mask,
            )
            for clip in clips
        ]
        columns = {name: [answer[name][0] for answer in single] for name in single[0]}
        if any(len({value.shape for value in column}) > 1 for column in columns.values()):
            padded = processor.pad(columns, padding=True, return_attention_mask=with_mask)
            columns = dict(padded)
        return {name: torch.from_numpy(np.stack(column)) for name, column in columns.items()}


_KNOWN: dict[str, Callable[[Any], Extractor]] = {
    "Wav2Vec2FeatureExtractor": Waveforms,
    "ASTFeatureExtractor": KaldiSpectrograms,
    "WhisperFeatureExtractor": WhisperSpectrograms,
}


def _normalize(clip: Tensor) -> Tensor:
    """Zero mean and unit variance; silence stays silence."""
    centred = clip - clip.mean()
    variance = centred.dot(centred) / len(centred)  # ten times as quick as var on long clips
    return centred / torch.sqrt(variance + 1e-7)


def _agree(fast: Extractor, plain: Extractor) -> bool:
    """Whether two extractors answer alike for two clips of unequal length.

    Settings that are not known here (dither, padding on the left) show in the answer.
    """
    times = torch.arange(int(0.3 * fast.sampling_rate_hz)) / fast.sampling_rate_hz
    chirp = 0.3 * torch.sin(6000 * times * (1 + times)) * times + 0.01
    clips = [chirp, chirp[: len(chirp) // 2]]
    ours, theirs = fast.extract(clips), plain.extract(clips)
    return ours.keys() == theirs.keys() and all(
        ours[name].shape == theirs[name].shape
        and bool((ours[name] - theirs[name]).abs().max() <= _MOST_APART)
        for name in theirs
    )


@lru_cache(maxsize=8)
def _kaldi_banks(bins: int, padded_window: int, sampling_rate_hz: int) -> Tensor:
    """Weights of Kaldi's mel bands: float32 `[1 + padded_window // 2, bins]`."""
    from torchaudio.compliance.kaldi import get_mel_banks

    banks: Tensor = get_mel_banks(
        bins, padded_window, sampling_rate_hz, 20.0, 0.0, 100.0, -500.0, 1.0
    )[0]
    return torch.nn.functional.pad(banks, (0, 1)).T.contiguous()
