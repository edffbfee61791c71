"""A convolutional network over log-mel spectrograms, for sound, trained from scratch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, ModelOptions

Positive = Annotated[int, Field(gt=0)]
# The extractor's settings, as they are called here.
_OWN_WORDS = {
    "n_fft": "window_seconds (in samples)",
    "hop_length": "hop_seconds (in samples)",
    "n_mels": "num_mel_bands",
    "f_min": "lowest_hz",
    "f_max": "highest_hz",
}


class Options(ModelOptions):
    """Options of the log-mel CNN: the spectrogram, then the network."""

    name: Literal["log_mel_cnn"] = "log_mel_cnn"
    sampling_rate_hz: Positive | None = None
    """Bring every clip to this rate; by default the data's own, where all clips have the same."""
    window_seconds: Annotated[float, Field(gt=0, le=1)] = 0.025
    """Sound that one frame of the spectrogram looks at."""
    hop_seconds: Annotated[float, Field(gt=0, le=1)] = 0.0125
    """From one frame to the next."""
    num_mel_bands: Positive = 24
    """Bands of frequency from `lowest_hz` to `highest_hz`; wide ones blur the pitch of a voice."""
    lowest_hz: Annotated[float, Field(ge=0)] = 60.0
    highest_hz: Annotated[float, Field(gt=0)] | None = None
    """By default half the sampling rate."""
    normalization: Literal["clip", "bands", "none"] = "clip"
    """Take out of each clip its mean and spread (`clip`: its loudness), or those of each band
    (`bands`: microphone and room too, and of a short word much of its sound), or nothing."""
    channels: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1)] = (24, 48, 96)
    """Channels of each block; each block halves time and frequency."""
    convolutions_per_block: Positive = 2
    """The first one halves; what the others make is added to its answer."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Before the last layer."""


def build(options: Options, description: DataDescription) -> Classifier:
    """Builds the network with fresh weights, drawn from torch's global generator.

    Args:
        options: The configuration's `model` section.
        description: What the model needs to know of the data.

    Raises:
        ModelError: The data are no sound, their rates differ and none is chosen, or the
            spectrogram can't be made as it is asked for.
    """
    from hf_finetune.models.modeling_log_mel_cnn import (
        LogMelCnnConfig,
        LogMelCnnForAudioClassification,
    )
    from hf_finetune.models.spectrogram_processing import LogMelFeatureExtractor

    rate = _settle_rate(options, description)
    try:
        extractor = LogMelFeatureExtractor(
            sampling_rate=rate,
            n_fft=round(options.window_seconds * rate),
            hop_length=round(options.hop_seconds * rate),
            n_mels=options.num_mel_bands,
            f_min=options.lowest_hz,
            f_max=options.highest_hz,
        )
    except ValueError as error:
        raise ModelError(f"model: at {rate:,} Hz: {_in_own_words(str(error))}") from error
    own = ("num_mel_bands", "channels", "convolutions_per_block", "normalization", "dropout")
    config = LogMelCnnConfig(
        **options.model_dump(include=set(own)),
        id2label=dict(enumerate(description.label_names)),
        label2id={label: number for number, label in enumerate(description.label_names)},
    )
    model = LogMelCnnForAudioClassification(config)
    return Classifier(model, extractor, channels_last=model.gains_from_channels_last)


def _settle_rate(options: Options, description: DataDescription) -> int:
    """The rate of the clips that the network takes, in Hz."""
    if description.modality != "audio":
        raise ModelError(
            "model.name: log_mel_cnn takes sound, and the data are images. Choose model.name: cnn."
        )
    rate = options.sampling_rate_hz or description.sampling_rate_hz
    if rate is None:
        raise ModelError(
            "model.sampling_rate_hz: the clips of this data set differ in their sampling rate, and "
            "the network takes one. Set model.sampling_rate_hz, for example 16000."
        )
    return rate


def _in_own_words(text: str) -> str:
    """What the extractor says, of the options' names."""
    for theirs, ours in _OWN_WORDS.items():
        text = text.replace(theirs, ours)
    return text
