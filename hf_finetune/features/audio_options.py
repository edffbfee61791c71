"""What can be set between an audio file and the model: lengths, batches, augmentation.

Part of the configuration's `features` section: plain data, read by `audio`, `audio_augmentation`
and the batches' sampler.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from hf_finetune.options import Section

Probability = Annotated[float, Field(ge=0, le=1)]


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(
            f"the first number must not be above the second, got [{value[0]:g}, {value[1]:g}]. "
            f"Write [{value[1]:g}, {value[0]:g}]"
        )
    return value


Decibels = Annotated[float, Field(ge=-60, le=120)]
DecibelRange = Annotated[tuple[Decibels, Decibels], Field(strict=False), AfterValidator(_in_order)]
SpeedFactors = Annotated[
    tuple[Annotated[float, Field(ge=0.5, le=2)], ...], Field(strict=False, max_length=32)
]
# What says how something is done, and what must be on for it to say anything.
_NEEDS = (
    ("noise_folder", "noise_snr_db"),
    ("noise_probability", "noise_snr_db"),
    ("time_mask_fraction", "time_masks"),
    ("frequency_mask_fraction", "frequency_masks"),
)
_BATCHES_NEEDED = (
    ("length_window_batches", "by_length"),
    ("length_rounding_seconds", "equal_length"),
)


class AudioAugmentationOptions(Section):
    """Random changes to training clips, drawn from (seed, epoch, index); nothing by default."""

    speed_factors: SpeedFactors = ()
    """Play faster (above 1) or slower by one of these, each as likely: [0.9, 1.0, 1.1] for example.
    Pitch moves along. Read as whole hundredths."""
    pitch_semitones: Annotated[int, Field(ge=0, le=12)] = 0
    """Shift the pitch by a whole number of semitones within ± this. Slow: batches take about five
    times as long to make."""
    shift_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift in time by a uniform part, within ± this, of the clip; silence comes in."""
    noise_snr_db: DecibelRange | None = None
    """Add noise, at a ratio of signal to noise from the first number of decibels to the second:
    [10, 30] for example."""
    noise_folder: str | None = None
    """Take the noise from the audio files in this folder; else it is white."""
    noise_probability: Probability = 1.0
    """Part of the clips that get noise."""
    gain_db: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Make louder or quieter by a uniform number of decibels within ± this. A model whose feature
    extractor normalises each clip (do_normalize of wav2vec2 and its like) doesn't see it."""
    time_masks: Annotated[int, Field(ge=0, le=100)] = 0
    """SpecAugment: how many stretches of time to blot out. For models that take spectrograms; those
    that take waveforms have their own (mask_time_prob in the model's config)."""
    time_mask_fraction: Probability = 0.1
    """Longest stretch, as a part of the clip; uniform from 0."""
    frequency_masks: Annotated[int, Field(ge=0, le=100)] = 0
    """SpecAugment: how many bands of frequency to blot out."""
    frequency_mask_fraction: Probability = 0.2
    """Widest band, as a part of all bands; uniform from 0."""

    @property
    def waveform_augmented(self) -> bool:
        """Whether waveforms change; else only spectrograms do, if anything."""
        return bool(
            self.speed_factors
            or self.pitch_semitones
            or self.shift_fraction
            or (self.noise_snr_db and self.noise_probability)
            or self.gain_db
        )

    @property
    def masks_spectrograms(self) -> bool:
        """Whether parts of spectrograms are blotted out."""
        return self.time_masks > 0 or self.frequency_masks > 0


class AudioOptions(Section):
    """What happens between an audio file and the model."""

    max_seconds: Annotated[float, Field(gt=0)] | None = None
    """Longer clips are cut: in training at a random place, anew in each epoch. Without it, to what
    the model takes at most (AST about 10 seconds, Whisper 30), or not at all."""
    evaluation_windows: Literal["whole"] | Annotated[int, Field(gt=0)] = 1
    """What is evaluated of a clip that is longer. 1: its middle. More: that many stretches at most,
    evenly spread over the clip, whose logits are averaged. `whole`: the clip uncut, or the middle
    that the model takes at most."""
    batches: Literal["random", "by_length", "equal_length"] = "by_length"
    """Which training clips share a batch. `by_length`: of similar length, so that little is padded.
    `equal_length`: of the same length, for models whose answer depends on padding (wav2vec2-base
    and others with `feat_extract_norm: group`)."""
    length_window_batches: Annotated[int, Field(gt=0)] = 50
    """by_length: this many random batches at a time are sorted by length."""
    length_rounding_seconds: Annotated[float, Field(ge=0)] = 0.02
    """equal_length: lengths that round down to the same multiple of this share a batch. 0: only
    what is equal to the sample, which recordings seldom are."""
    waveform_cache_bytes: Annotated[int, Field(ge=0)] = 2**27
    """Training clips that are read whole stay in memory from epoch to epoch, decoded and resampled,
    until they fill this much (128 MiB: 35 minutes at 16 kHz). Not in loaders' workers."""
    augmentation: AudioAugmentationOptions = AudioAugmentationOptions()
    """Random changes to training clips."""


def describe_audio_options(options: AudioOptions) -> str:
    """What is set, in words for the plan."""
    given = options.model_dump(exclude_defaults=True, exclude={"augmentation"})
    active = options.augmentation.model_dump(exclude_defaults=True)
    listed = {
        "": given,
        "augmentation of training clips: ": active or {"none": ""},
    }
    return "; ".join(
        title
        + ", ".join(f"{name} {_describe_value(value)}".strip() for name, value in part.items())
        for title, part in listed.items()
        if part
    )


def _describe_value(value: float | str | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(f'{number:g}' for number in value)}]"
    return value if isinstance(value, str) else f"{value:g}"


def check_audio(options: AudioOptions) -> tuple[str, ...]:
    """What is allowed but probably not meant, in words for the plan and the run's record.

    Args:
        options: The configuration's `features.audio` section.
    """
    augmentation = options.augmentation
    changed = augmentation.model_dump(exclude_defaults=True)
    warnings = [
        f"features.audio.augmentation.{name} does nothing without {needed}"
        for name, needed in _NEEDS
        if name in changed and needed not in changed
    ]
    given = options.model_dump(exclude_defaults=True)
    warnings += [
        f"features.audio.{name} does nothing without batches: {needed}"
        for name, needed in _BATCHES_NEEDED
        if name in given and options.batches != needed
    ]
    if options.batches == "equal_length" and augmentation.speed_factors:
        warnings.append(
            "features.audio.augmentation.speed_factors changes lengths, so that the batches of "
            "features.audio.batches: equal_length are padded after all"
        )
    return tuple(warnings)
