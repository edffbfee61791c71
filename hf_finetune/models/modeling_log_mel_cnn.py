"""The convolutional network over log-mel spectrograms, as a Hugging Face model.

It knows nothing of this package, so that a copy of this file can go with the weights to the Hub.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

NORMALIZATIONS = ("clip", "bands", "none")
_LEAST_VARIANCE = 1e-3  # log-mel values of speech vary by about 4; of silence, not at all


class LogMelCnnConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """Settings of the network.

    Attributes:
        num_mel_bands: Bands of a spectrogram.
        channels: Channels of each block; each block halves time and frequency.
        convolutions_per_block: Each with batch norm and ReLU; the first does the halving, what the
            others make is added to what they got.
        normalization: What is taken out of a clip first: its mean and spread (`clip`), those of
            each band over time (`bands`: cepstral mean and variance normalisation), or nothing
            (`none`).
        dropout: Before the last layer.
    """

    model_type = "hf_finetune_log_mel_cnn"

    num_mel_bands: int = 24
    channels: list[int] | tuple[int, ...] = (24, 48, 96)
    convolutions_per_block: int = 2
    normalization: str = "clip"
    dropout: float = 0.2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.channels = list(self.channels)
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"normalization: unknown value {self.normalization!r}. "
                f"Allowed: {', '.join(NORMALIZATIONS)}."
            )


def normalize(values: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Takes out of each clip what the microphone, the room and the loudness put in.

    Args:
        values: float `[B, 1, bands, frames]`, logarithms.
        mask: float `[B, 1, 1, frames]`, 1 where there is sound and 0 in the padding.
        kind: See `LogMelCnnConfig.normalization`.

    Returns:
        float `[B, 1, bands, frames]`, 0 in the padding.

    Source:
        Viikki and Laurila 1998, "Cepstral domain segmental feature vector normalization for noise
        robust speech recognition", here over whole clips.
    """
    if kind == "none":
        return values * mask
    axes = (3,) if kind == "bands" else (2, 3)
    filled = mask.expand_as(values)
    count = filled.sum(axes, keepdim=True)
    centred = (values - (values * mask).sum(axes, keepdim=True) / count) * mask
    variance = centred.square().sum(axes, keepdim=True) / count
    return centred / (variance + _LEAST_VARIANCE).sqrt()


class MaskedConvolution(nn.Module):
    """Convolution, batch norm, ReLU, and 0 again in the padding.

    What follows then sees at a clip's end what it would see of the clip alone: zeros.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        stride: 2 halves time and frequency, rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Float `[B, C, F, T]`, with the mask `[B, 1, 1, T]` of the output."""
        output = torch.relu(self.norm(self.convolution(hidden)))
        return output * mask.to(output.dtype)


class Block(nn.Module):
    """One halving convolution, and a sum with what the others make of its answer."""

    def __init__(self, in_channels: int, out_channels: int, convolutions: int) -> None:
        super().__init__()
        self.halve = MaskedConvolution(in_channels, out_channels, stride=2)
        self.others = nn.ModuleList(
            MaskedConvolution(out_channels, out_channels) for _ in range(convolutions - 1)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Float `[B, C, F, T]`, with the mask `[B, 1, 1, T]` of the output."""
        halved: Tensor = self.halve(hidden, mask)
        output = halved
        for layer in self.others:
            output = layer(output, mask)
        return halved + output if len(self.others) else halved


class LogMelCnnForAudioClassification(PreTrainedModel):  # type: ignore[misc]  # no types
    """Blocks of convolutions, mean and maximum over time, and one linear layer.

    Outside training the answer for a clip doesn't depend on what it is padded to or batched with.
    """

    config_class = LogMelCnnConfig
    main_input_name = "input_values"
    accepts_loss_kwargs = False  # the loss is a mean: Trainer must divide it by accumulated steps
    gains_from_channels_last = True

    def __init__(self, config: LogMelCnnConfig) -> None:
        super().__init__(config)
        widths = [1, *config.channels]
        self.blocks = nn.ModuleList(
            Block(*pair, config.convolutions_per_block) for pair in pairwise(widths)
        )
        bands = config.num_mel_bands
        for _ in config.channels:
            bands = -(-bands // 2)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * widths[-1] * bands, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own draw; PreTrainedModel's N(0, 0.02) is too small without pretraining.
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Scores spectrograms, and their loss where labels are given.

        Args:
            input_values: float `[B, 1, bands, frames]`, from `LogMelFeatureExtractor`.
            attention_mask: `[B, frames]`, 1 where there is sound, at least once a clip; None: all
                frames are.
            labels: int64 `[B]`.

        Returns:
            `logits` float `[B, classes]`; `loss` float32, the mean cross-entropy, or None.

        Raises:
            ValueError: The spectrograms have other bands than the network was built for.
        """
        bands = self.config.num_mel_bands
        if input_values.ndim != 4 or tuple(input_values.shape[1:3]) != (1, bands):
            raise ValueError(
                f"input_values: got {list(input_values.shape)}. The network was built for "
                f"[batch, 1, {bands}, frames]. Prepare sound with its feature extractor."
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values[:, 0, 0])
        mask = attention_mask[:, None, None].to(input_values.dtype)
        hidden = normalize(input_values, mask, self.config.normalization)
        for block in self.blocks:
            mask = mask[..., ::2]
            hidden = block(hidden, mask)
        logits = self.classifier(self.dropout(_over_time(hidden, mask)))
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _over_time(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean and maximum over a clip's own frames.

    Args:
        hidden: float `[B, C, F, T]`, nowhere below 0, and 0 in the padding.
        mask: `[B, 1, 1, T]`.

    Returns:
        float `[B, 2 C F]`.
    """
    mean = hidden.sum(3) / mask.sum(3).to(hidden.dtype)
    return torch.cat((mean, hidden.amax(3)), dim=1).flatten(1)
