"""Turns raw batches of sound into what an audio model takes.

The audio side of the features room; `collator_for` builds it. Clips are read (only the part that is
needed), brought to the model's sampling rate, augmented in training, and turned into features as
the model's own feature extractor does it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hf_finetune.data.listing import shown
from hf_finetune.errors import DataError, ModelError
from hf_finetune.features import FeatureOptions, rounds_widths
from hf_finetune.features.audio_augmentation import WaveformAugmentation, mask_spectrograms
from hf_finetune.features.audio_decoding import AudioArray, AudioFile, read_audio
from hf_finetune.features.audio_options import AudioOptions
from hf_finetune.features.clip_lengths import (
    common_width,
    least_samples,
    least_training_samples,
    random_starts,
    window_starts,
)
from hf_finetune.features.draws import Draw, Keys
from hf_finetune.features.extraction import extractor_for
from hf_finetune.features.resampling import resample
from hf_finetune.features.waveform_cache import WaveformCache

Audio = AudioFile | AudioArray
_Stretch = tuple[Audio, str, int, int]  # clip, its name, first frame, frames


class AudioCollator:
    """Raw audio batch in, model batch out; the contract stands at the room's door.

    An example's features depend on its own clip and, in training, on (seed, epoch, index); the
    batch adds nothing but padding.

    Args:
        processor: Hugging Face feature extractor, or a processor that holds one.
        options: The configuration's `features` section.
        seed: The run's seed, for cuts and augmentation.
        training: Whether to cut at random and to augment.
        model_config: The model's config, which tells how short a clip may be; None: any length.

    Attributes:
        extractor: Makes features of clips.
        seed: See above.
        training: See above.
        num_windows: Stretches at most that are taken of a clip.
        rounds_widths: Whether what is padded is padded to a common width (`common_width`), and not
            to the longest clip of the batch.

    Raises:
        ModelError: The augmentation masks spectrograms, and the model takes none; or max_seconds
            is too short for the model.
        DataError: There is no noise where the augmentation looks for it.
    """

    def __init__(
        self,
        processor: Any,
        options: FeatureOptions,
        *,
        seed: int,
        training: bool,
        model_config: Any = None,
    ) -> None:
        audio = options.audio
        self.extractor = extractor_for(processor)
        self.seed = seed
        self.training = training
        self._least = max(self.extractor.least_samples, least_samples(model_config))
        self._least_width = least_training_samples(model_config) if training else 1
        self.num_windows = _count_windows(audio, training)
        self.rounds_widths = training and rounds_widths(processor, options)
        self._most = self._find_most(audio)
        augmentation = audio.augmentation
        self._waveforms = self._masks = None
        if training and augmentation.waveform_augmented:
            rate = self.extractor.sampling_rate_hz
            self._waveforms = WaveformAugmentation(augmentation, rate)
        if training and augmentation.masks_spectrograms:
            if not self.extractor.makes_spectrograms:
                raise ModelError(
                    "features.audio.augmentation: time_masks and frequency_masks are for models "
                    "that take spectrograms (AST, Whisper); this one takes waveforms. Leave them "
                    "out; such models mask by mask_time_prob and mask_feature_prob of their config."
                )
            self._masks = augmentation
        self._warned = False
        self._cache = WaveformCache(audio.waveform_cache_bytes)

    def _find_most(self, options: AudioOptions) -> int | None:
        """Samples to cut longer clips to."""
        most, seconds = self.extractor.most_samples, options.max_seconds
        if seconds is None or (not self.training and options.evaluation_windows == "whole"):
            return most
        samples = round(seconds * self.extractor.sampling_rate_hz)
        if samples < self._least:
            raise ModelError(
                f"features.audio.max_seconds: {seconds:g} seconds are too short for the model. "
                f"Allowed: {self._least / self.extractor.sampling_rate_hz:.4f} or more."
            )
        return samples if most is None else min(samples, most)

    def takes(self, num_frames: int, sampling_rate_hz: int) -> bool:
        """Whether a clip is long enough for the model."""
        rate = self.extractor.sampling_rate_hz
        return -(-num_frames * rate // sampling_rate_hz) >= self._least

    @property
    def least_seconds(self) -> float:
        """Length of the shortest clip that the model takes."""
        return self._least / self.extractor.sampling_rate_hz

    @property
    def most_seconds(self) -> float | None:
        """Length that longer clips are cut to; None: they stay whole."""
        return None if self._most is None else self._most / self.extractor.sampling_rate_hz

    @property
    def waveform_augmented(self) -> bool:
        """Whether an example's waveform may differ from epoch to epoch."""
        return self.training and (self._waveforms is not None or self._most is not None)

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """Makes one model batch.

        Raises:
            DataError: A clip can't be read, is too short for the model, or has a rate that can't be
                resampled.
        """
        clips, examples = self.read_clips(raw_batch)
        batch = {} if self.num_windows == 1 else {"example": torch.tensor(examples)}
        lengths = [len(clip) for clip in clips]
        width = self._find_width(max(lengths)) if min(lengths) < max(lengths) else 0
        features = self.extractor.extract(clips, max(width, self._least_width))
        if self._masks is not None:
            counts = [self.extractor.count_frames(length) for length in lengths]
            frames = self.extractor.frames(features)
            mask_spectrograms(frames, counts, self._masks, self._keys(raw_batch))
        return batch | features | self.columns(raw_batch)

    def read_clips(self, raw_batch: dict[str, Any]) -> tuple[list[Tensor], list[int]]:
        """Clips as they go into the extractor, cut and augmented, and the example of each.

        Raises:
            DataError: As in the call.
        """
        audios: Sequence[Audio] = raw_batch["audio"]
        names = [_name(audio, raw_batch, place) for place, audio in enumerate(audios)]
        for audio, name in zip(audios, names, strict=True):
            self._check_length(audio, name)
        if not self.training:
            return self._evaluation_clips(audios, names)
        return self._training_clips(audios, names, raw_batch), list(range(len(audios)))

    def columns(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """The columns of a model batch that don't come from the sound."""
        return {
            name: torch.as_tensor(np.array(raw_batch[raw_name]), dtype=torch.int64)
            for raw_name, name in (("label", "labels"), ("index", "index"))
            if raw_name in raw_batch
        }

    def padded_seconds(self, seconds: float) -> float:
        """What a batch of unequal clips is padded to, whose longest has this length."""
        rate = self.extractor.sampling_rate_hz
        return self._find_width(round(seconds * rate)) / rate if self.rounds_widths else seconds

    def _find_width(self, longest: int) -> int:
        """Samples to pad a batch of unequal clips to."""
        width = common_width(longest) if self.rounds_widths else longest
        # Many clips are cut to just the most.
        return width if self._most is None else min(width, max(longest, self._most))

    def cuts_at_random(self, audio: Audio) -> bool:
        """Whether a clip is too long for training, and cut at a random place."""
        return self.training and self._count_wanted(audio) < _count_frames(audio)

    def describe_clips(self) -> list[Any]:
        """What decides, beside the files, how a clip goes into the model; plain values."""
        return [self.extractor.settings, self._most, self.num_windows, self.training]

    def _training_clips(
        self, audios: Sequence[Audio], names: Sequence[str], raw_batch: dict[str, Any]
    ) -> list[Tensor]:
        """One clip an example: a random cut where it is too long, augmented."""
        keys = self._keys(raw_batch)
        speeds = np.ones(len(audios))
        if self._waveforms is not None:
            speeds = self._waveforms.draw_speeds(keys)
        frames = np.array([_count_frames(audio) for audio in audios])
        lengths = np.array(
            [self._count_wanted(audio, speed) for audio, speed in zip(audios, speeds, strict=True)]
        )
        starts = random_starts(frames, lengths, keys.uniform(Draw.CLIP_START))
        stretches = list(zip(audios, names, starts.tolist(), lengths.tolist(), strict=True))
        clips = self._read_or_recall(stretches, keys.indices.tolist())
        if self._waveforms is None:
            return [self._trim(clip) for clip in clips]
        clips = [self._trim(clip) for clip in self._waveforms.apply(clips, keys)]
        # What was made faster may have become too short for the model.
        return [pad(clip, (0, max(self._least - len(clip), 0))) for clip in clips]

    def _evaluation_clips(
        self, audios: Sequence[Audio], names: Sequence[str]
    ) -> tuple[list[Tensor], list[int]]:
        """The windows of every example, and the example of each."""
        stretches: list[_Stretch] = []
        examples = []
        for place, (audio, name) in enumerate(zip(audios, names, strict=True)):
            length = self._count_wanted(audio)
            for start in window_starts(_count_frames(audio), length, self.num_windows):
                stretches.append((audio, name, start, length))
                examples.append(place)
        return [self._trim(clip) for clip in self._read_all(stretches)], examples

    def _count_wanted(self, audio: Audio, speed: float = 1.0) -> int:
        """Frames to read of a clip that will be played at some speed."""
        frames = _count_frames(audio)
        if self._most is None:
            return frames
        ratio = audio["sampling_rate_hz"] / self.extractor.sampling_rate_hz
        return min(frames, int(np.ceil(self._most * ratio * speed)))

    def _read_or_recall(self, stretches: Sequence[_Stretch], rows: Sequence[int]) -> list[Tensor]:
        """As `_read_all`; whole clips of earlier epochs come out of the cache.

        Args:
            stretches: Of training clips.
            rows: The row of each; what it holds doesn't change in a collator's life.
        """
        whole = [length == _count_frames(audio) for audio, _, _, length in stretches]
        found = [
            self._cache.find(row) if is_whole else None
            for row, is_whole in zip(rows, whole, strict=True)
        ]
        unknown = [place for place, clip in enumerate(found) if clip is None]
        read = self._read_all([stretches[place] for place in unknown])
        for place, clip in zip(unknown, read, strict=True):
            found[place] = clip
            if whole[place]:
                self._cache.keep(rows[place], clip)
        return [clip for clip in found if clip is not None]

    def _read_all(self, stretches: Sequence[_Stretch]) -> list[Tensor]:
        """Stretches of clips at the model's rate: float32 `[T]` each.

        All are read before the first is resampled: in turn, the two take twice as long.
        """
        clips = [self._read(*stretch) for stretch in stretches]
        for place, (audio, name, *_) in enumerate(stretches):
            clips[place] = self._resample(clips[place], audio["sampling_rate_hz"], name)
        return clips

    def _read(self, audio: Audio, name: str, start: int, length: int) -> Tensor:
        """Part of a clip at its own rate: float32 `[T]`."""
        if "array" in audio:
            samples = _check_array(audio["array"], name)[start : start + length]
        else:
            samples = read_audio(audio, start, length, name)
        if length == _count_frames(audio) and not self._warned and not samples.any():
            self._warned = True
            warnings.warn(
                f"{name}: it is all silence. (Said once, however many there are.)", stacklevel=2
            )
        return torch.from_numpy(np.require(samples, requirements=["C", "W"]))

    def _resample(self, clip: Tensor, rate_hz: int, name: str) -> Tensor:
        try:
            return resample(clip, rate_hz, self.extractor.sampling_rate_hz)
        except ValueError as error:
            raise DataError(f"{name}: {error}") from error

    def _trim(self, clip: Tensor) -> Tensor:
        """What the rounding of rates and speeds added is cut off."""
        return clip if self._most is None else clip[: self._most]

    def _check_length(self, audio: Audio, name: str) -> None:
        rate = self.extractor.sampling_rate_hz
        if not self.takes(_count_frames(audio), audio["sampling_rate_hz"]):
            seconds = _count_frames(audio) / audio["sampling_rate_hz"]
            raise DataError(
                f"{name}: {seconds:.4f} seconds are too short for the model. Allowed: "
                f"{self._least / rate:.4f} seconds ({self._least} samples at {rate:,} Hz) or more. "
                "Remove the clip, or add silence to it."
            )

    def _keys(self, raw_batch: dict[str, Any]) -> Keys:
        return Keys(self.seed, np.asarray(raw_batch["epoch"]), np.asarray(raw_batch["index"]))


def _count_windows(options: AudioOptions, training: bool) -> int:
    """Stretches at most that are taken of a clip."""
    windows = options.evaluation_windows
    return 1 if training or windows == "whole" else windows


def _count_frames(audio: Audio) -> int:
    return len(audio["array"]) if "array" in audio else audio["num_frames"]


def _check_array(array: NDArray[Any], name: str) -> NDArray[Any]:
    if array.ndim != 1 or array.dtype != np.float32 or not np.isfinite(array).all():
        raise DataError(
            f"{name}: got an array of {array.dtype} and shape {list(array.shape)}, or numbers that "
            "aren't finite. Allowed: float32 [samples], finite. Convert it."
        )
    return array


def _name(audio: Audio, raw_batch: dict[str, Any], place: int) -> str:
    """A clip by its file, or by its row, or by its place in the batch."""
    path = audio.get("path")
    if isinstance(path, str):
        return shown(path)
    if "index" in raw_batch:
        return f"audio of index {int(raw_batch['index'][place])}"
    return f"audio {place} of the batch"
