"""The augmentation of training clips: every stage, in its order.

Called by the audio collator, in training only: the waveform's stages at the model's sampling rate,
SpecAugment on finished spectrograms.

| | stage | settings |
| --- | --- | --- |
| 1 | play faster or slower | `speed_factors` |
| 2 | shift the pitch | `pitch_semitones` |
| 3 | shift in time | `shift_fraction` |
| 4 | add noise | `noise_…` |
| 5 | make louder or quieter | `gain_db` |
| 6 | blot out times and frequencies | `time_mask…`, `frequency_mask…` |

What happens to an example follows from (seed, epoch, index), as with images: each number has a name
of its own (`draws.Draw`), so that switching one stage on leaves what the others do as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_finetune.errors import DataError
from hf_finetune.features.audio_decoding import describe_audio, read_audio, read_header
from hf_finetune.features.audio_options import AudioAugmentationOptions
from hf_finetune.features.draws import Draw, Keys
from hf_finetune.features.resampling import change_speed, resample

_NOISE_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".au"})
_PITCH_FFT = 512  # samples, as torchaudio's pitch_shift
# Semitones as fractions of at most this denominator are off by less than 2 cents, which nobody
# hears, and their filters are small. (torchaudio's own pitch_shift builds one of 1 GB at 16 kHz.)
_PITCH_DENOMINATOR = 50


class WaveformAugmentation:
    """Stages 1 to 5.

    Args:
        options: What to do, and how far.
        sampling_rate_hz: Rate of the clips.

    Raises:
        DataError: There is no noise in `noise_folder`, or a file there is no noise that could be
            added.
    """

    def __init__(self, options: AudioAugmentationOptions, sampling_rate_hz: int) -> None:
        self.options = options
        self._rate = sampling_rate_hz
        folder = options.noise_folder
        self._noises = () if folder is None else _list_noises(folder, sampling_rate_hz)

    def draw_speeds(self, keys: Keys) -> np.ndarray:
        """How much faster each clip is to be played: float64 `[B]`, 1 where nothing changes."""
        factors = np.asarray(self.options.speed_factors or (1.0,))
        speeds: np.ndarray = factors[keys.whole(len(factors), Draw.SPEED)]
        return speeds

    def apply(self, clips: Sequence[Tensor], keys: Keys) -> list[Tensor]:
        """Changes clips, each by its own keys.

        Args:
            clips: float32 `[T]` each; left as they are.
            keys: Whose numbers to draw.

        Raises:
            DataError: A file of noise can't be read.
        """
        options = self.options
        speeds = self.draw_speeds(keys)
        semitones = keys.whole(2 * options.pitch_semitones + 1, Draw.PITCH)
        shifts = options.shift_fraction * keys.signed(Draw.CLIP_SHIFT)
        gains = 10 ** (options.gain_db * keys.signed(Draw.GAIN) / 20)
        results = []
        for number, clip in enumerate(clips):
            changed = change_speed(clip, speeds[number])
            changed = shift_pitch(changed, int(semitones[number]) - options.pitch_semitones)
            changed = shift_time(changed, round(shifts[number] * len(changed)))
            changed = self._add_noise(changed, keys.take(slice(number, number + 1)))
            results.append(changed * float(gains[number]) if options.gain_db else changed)
        return results

    def _add_noise(self, clip: Tensor, keys: Keys) -> Tensor:
        options = self.options
        if options.noise_snr_db is None or keys.uniform(Draw.NOISE)[0] >= options.noise_probability:
            return clip
        snr_db = float(keys.between(*options.noise_snr_db, Draw.NOISE_SNR)[0])
        noise = self._read_noise(len(clip), keys) if self._noises else _white_noise(len(clip), keys)
        return add_noise(clip, noise, snr_db)

    def _read_noise(self, num_samples: int, keys: Keys) -> Tensor:
        """A stretch of one of the files of noise; a shorter file is repeated."""
        path = self._noises[int(keys.whole(len(self._noises), Draw.NOISE_FILE)[0])]
        audio, header = describe_audio(path, None)
        wanted = -(-num_samples * header.sampling_rate_hz // self._rate)
        count = min(wanted, header.num_frames)
        start = int(keys.whole(header.num_frames - count + 1, Draw.NOISE_START)[0])
        samples = torch.from_numpy(read_audio(audio, start, count))
        try:
            noise = resample(samples, header.sampling_rate_hz, self._rate)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
        return noise.repeat(-(-num_samples // len(noise)))[:num_samples]


def shift_pitch(clip: Tensor, semitones: int) -> Tensor:
    """A clip of the same length, higher or lower: stretched in time, then resampled.

    Args:
        clip: float32 `[T]`.
        semitones: Twelve are an octave; below 0 is lower.

    Returns:
        float32 `[T]`.

    Source:
        Flanagan, Golden 1966, "Phase Vocoder", as torchaudio does it.
    """
    if semitones == 0 or len(clip) < _PITCH_FFT:  # too short to have a pitch
        return clip
    from torchaudio.functional import phase_vocoder

    ratio = Fraction(2 ** (semitones / 12)).limit_denominator(_PITCH_DENOMINATOR)
    hop, window = _PITCH_FFT // 4, torch.hann_window(_PITCH_FFT)
    advance = torch.linspace(0, torch.pi * hop, _PITCH_FFT // 2 + 1)[:, None]
    spectrum = torch.stft(
        clip, _PITCH_FFT, hop, window=window, pad_mode="constant", return_complex=True
    )
    stretched = phase_vocoder(spectrum, float(1 / ratio), advance)
    length = -(-len(clip) * ratio.numerator // ratio.denominator)
    longer = torch.istft(stretched, _PITCH_FFT, hop, window=window, length=length)
    shifted = resample(longer, ratio.numerator, ratio.denominator)
    result: Tensor = pad(shifted, (0, len(clip) - len(shifted)))  # cuts what is too long
    return result


def shift_time(clip: Tensor, num_samples: int) -> Tensor:
    """A clip moved later, or earlier below 0; silence comes in, and what leaves is lost."""
    moved: Tensor = pad(clip, (num_samples, -num_samples))
    return moved


def add_noise(clip: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """A clip with noise at a ratio of their powers.

    Args:
        clip: float32 `[T]`; silence stays silent.
        noise: float32 `[T]`; silence adds nothing.
        snr_db: Decibels that the clip lies above the noise.
    """
    signal_power, noise_power = (float(wave.square().mean()) for wave in (clip, noise))
    if not signal_power or not noise_power:
        return clip
    return clip + noise * sqrt(signal_power / noise_power / 10 ** (snr_db / 10))


def mask_spectrograms(
    frames: Tensor, lengths: Sequence[int], options: AudioAugmentationOptions, keys: Keys
) -> None:
    """Stage 6: blots out stretches of time and bands of frequency with the clip's mean.

    Args:
        frames: float32 `[B, time, frequency]`, changed in place.
        lengths: Frames that each clip fills, B of them; the padding is left alone.
        options: `time_masks`, `frequency_masks`, and how large they may be.
        keys: Whose numbers to draw.

    Source:
        Park et al. 2019, "SpecAugment", §2, without the warping of time.
    """
    counts = np.asarray(lengths)
    bands = np.full(len(counts), frames.shape[2])
    in_time = _draw_masks(
        counts,
        frames.shape[1],
        options.time_masks,
        options.time_mask_fraction,
        keys,
        Draw.TIME_MASK,
    )
    in_frequency = _draw_masks(
        bands,
        frames.shape[2],
        options.frequency_masks,
        options.frequency_mask_fraction,
        keys,
        Draw.FREQUENCY_MASK,
    )
    filled = torch.arange(frames.shape[1]) < torch.from_numpy(counts)[:, None]
    masked = (in_time[:, :, None] | in_frequency[:, None, :]) & filled[:, :, None]
    for clip, mask, length in zip(frames, masked, lengths, strict=True):
        clip[mask] = clip[:length].mean()


def _draw_masks(
    sizes: np.ndarray, width: int, count: int, fraction: float, keys: Keys, draw: Draw
) -> Tensor:
    """Whether each place of an axis is blotted out: bool `[B, width]`.

    Args:
        sizes: int64 `[B]`, places of each clip that may be.
        width: Places of the axis.
        count: Masks for each clip.
        fraction: Largest mask, as a part of the places.
        keys: Whose numbers to draw.
        draw: Says how wide; the next number says where.
    """
    masked = torch.zeros(len(sizes), width, dtype=torch.bool)
    places = np.arange(width)
    for number in range(count):
        numbers = np.full(len(sizes), number)
        widths = np.floor(keys.uniform(draw, numbers) * (np.floor(sizes * fraction) + 1))
        starts = np.floor(keys.uniform(draw + 1, numbers) * (sizes - widths + 1))
        inside = (places >= starts[:, None]) & (places < (starts + widths)[:, None])
        masked |= torch.from_numpy(inside)
    return masked


def _white_noise(num_samples: int, keys: Keys) -> Tensor:
    """Gaussian noise of one example: float32 `[num_samples]`."""
    seed = int(keys.uniform(Draw.NOISE_SEED)[0] * 2**53)
    noise = np.random.default_rng(seed).standard_normal(num_samples, dtype=np.float32)
    return torch.from_numpy(noise)


def _list_noises(folder: str, sampling_rate_hz: int) -> tuple[str, ...]:
    """Audio files below a folder, in the order of their paths; of each the header is looked at."""
    key = "features.audio.augmentation.noise_folder"
    if not Path(folder).is_dir():
        raise DataError(f"{key}: {folder!r} is no folder. Name one that holds audio files.")
    files = (path for path in Path(folder).rglob("*") if path.suffix.lower() in _NOISE_SUFFIXES)
    noises = tuple(sorted(str(path) for path in files if path.is_file()))
    if not noises:
        raise DataError(
            f"{key}: {folder!r} holds no audio file. Allowed: "
            f"{', '.join(sorted(_NOISE_SUFFIXES))}, in folders of any depth."
        )
    rates = {path: read_header(path).sampling_rate_hz for path in noises}
    for rate in set(rates.values()):
        path = next(path for path in noises if rates[path] == rate)
        try:
            resample(torch.zeros(1), rate, sampling_rate_hz)  # its filter is needed anyway
        except ValueError as error:
            raise DataError(f"{path}: {error}") from error
    return noises
