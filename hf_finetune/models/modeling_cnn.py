"""The convolutional network as a Hugging Face model.

It knows nothing of this package, so that a copy of this file can go with the weights to the Hub.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
CHOICES = {
    "padding": ("same", "valid"),
    "norm": ("batch", "group", "none"),
    "activation": tuple(ACTIVATIONS),
    "pool": (*POOLS, "none"),
    "pool_after": ("first", "last"),
    "head": ("average", "flatten"),
}


class CnnConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """Settings of the network.

    Attributes:
        image_height: Pixels.
        image_width: Pixels.
        num_channels: Channels of a picture: 1 (grey) or 3 (red, green, blue).
        channels: Channels of each block.
        convolutions_per_block: Each followed by its norm and its activation.
        kernel_size: Pixels on a side; odd where padding is `same`.
        padding: `same` or `valid`.
        norm: `batch`, `group` or `none`.
        activation: `relu`, `gelu` or `silu`.
        pool: How each block is halved: `max`, `average` or `none`.
        pool_after: Halved after the block's `first` convolution or after its `last`.
        residual: Whether what the first convolution of a block gives is added to what the others
            make of it.
        head: What the last layer sees: the mean over the picture (`average`) or every pixel of it
            (`flatten`).
        dropout: Before the last layer.
        mirrored_evaluation: Whether evaluation answers with the mean of what the network says of a
            picture and of its mirror image (left and right).
        shifted_evaluation: The same with the picture itself and moved by a pixel in each of the
            four directions.
    """

    model_type = "hf_finetune_cnn"

    image_height: int = 28
    image_width: int = 28
    num_channels: int = 1
    channels: list[int] | tuple[int, ...] = (32, 64, 128)
    convolutions_per_block: int = 2
    kernel_size: int = 3
    padding: str = "same"
    norm: str = "batch"
    activation: str = "relu"
    pool: str = "max"
    pool_after: str = "last"
    residual: bool = False
    head: str = "average"
    dropout: float = 0.0
    mirrored_evaluation: bool = False
    shifted_evaluation: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.channels = list(self.channels)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name}: unknown value {getattr(self, name)!r}. Allowed: {', '.join(allowed)}."
                )
        if self.padding == "same" and self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size: {self.kernel_size} is even, and padding 'same' would move the "
                "picture by half a pixel. Choose an odd size, or padding: valid."
            )
        if self.residual and self.padding == "valid" and self.convolutions_per_block > 1:
            raise ValueError(
                "residual: what is added must be equal in size, and padding 'valid' shrinks it. "
                "Choose padding: same, or residual: false."
            )


def feature_shape(config: CnnConfig) -> tuple[int, int, int]:
    """Shape `[channels, height, width]` of what the last block gives.

    Raises:
        ValueError: The picture is too small for the blocks.
    """
    size = [config.image_height, config.image_width]
    lost = config.kernel_size - 1 if config.padding == "valid" else 0
    before_pool = 1 if config.pool_after == "first" else config.convolutions_per_block
    for block in range(1, len(config.channels) + 1):
        before = f"{size[0]}x{size[1]}"
        size = [side - lost * before_pool for side in size]
        if config.pool != "none":
            size = [side // 2 for side in size]
        size = [side - lost * (config.convolutions_per_block - before_pool) for side in size]
        if min(size) < 1:
            raise ValueError(
                f"block {block} of {len(config.channels)} gets {before} pixels and leaves none of "
                f"them (the picture has {config.image_height}x{config.image_width}). Choose fewer "
                "channels, padding: same, pool: none or a larger image_size."
            )
    return config.channels[-1], size[0], size[1]


def neighbours(pixel_values: Tensor) -> list[Tensor]:
    """Pictures `[B, C, H, W]` moved by one pixel in each of the four directions; edges go on."""
    padded = pad(pixel_values, (1, 1, 1, 1), mode="replicate")
    height, width = pixel_values.shape[-2:]
    return [
        padded[..., down : down + height, right : right + width]
        for down, right in ((0, 1), (1, 0), (1, 2), (2, 1))
    ]


def _norm(kind: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(gcd(8, channels), channels)


class Residual(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Any shape that the layers keep."""
        output = hidden
        for layer in self:
            output = layer(output)
        return hidden + output


def _convolution(config: CnnConfig, in_channels: int, out_channels: int) -> list[nn.Module]:
    """A convolution with its norm and its activation."""
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            config.kernel_size,
            padding=config.padding,
            bias=config.norm == "none",  # a norm takes any constant away again
        )
    ]
    if config.norm != "none":
        layers.append(_norm(config.norm, out_channels))
    return [*layers, ACTIVATIONS[config.activation]()]


def _block(config: CnnConfig, in_channels: int, out_channels: int) -> nn.Sequential:
    first = _convolution(config, in_channels, out_channels)
    others = [
        layer
        for _ in range(config.convolutions_per_block - 1)
        for layer in _convolution(config, out_channels, out_channels)
    ]
    if config.residual and others:
        others = [Residual(*others)]
    pool = [POOLS[config.pool](2)] if config.pool != "none" else []
    if config.pool_after == "first":
        # Before norm and activation, which then have a quarter of the pixels to do.
        convolution, *rest = first
        return nn.Sequential(convolution, *pool, *rest, *others)
    layers = [*first, *others]
    if config.pool == "max" and isinstance(layers[-1], nn.ReLU):
        # The largest of four is the same before ReLU as after it, and so is what flows back; ReLU
        # then has a quarter of the pixels to do.
        return nn.Sequential(*layers[:-1], *pool, layers[-1])
    return nn.Sequential(*layers, *pool)


class CnnForImageClassification(PreTrainedModel):  # type: ignore[misc]  # transformers ships no types
    """Blocks of convolutions, and one linear layer at the end.

    Raises:
        ValueError: The picture is too small for the blocks.
    """

    config_class = CnnConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is a mean: Trainer must divide it by accumulated steps
    gains_from_channels_last = True

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(config)
        channels, height, width = feature_shape(config)
        widths = [config.num_channels, *config.channels]
        self.features = nn.Sequential(*(_block(config, *pair) for pair in pairwise(widths)))
        average = config.head == "average"
        head = (
            OrderedDict[str, nn.Module](pool=nn.AdaptiveAvgPool2d(1)) if average else OrderedDict()
        )
        head |= OrderedDict(flatten=nn.Flatten(), dropout=nn.Dropout(config.dropout))
        self.head = nn.Sequential(head)
        inputs = channels if average else channels * height * width
        self.classifier = nn.Linear(inputs, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PreTrainedModel would draw every weight from N(0, 0.02), far too small for a network
        # without pretraining. torch's own draw learned fastest here (against Kaiming's normal,
        # fan in and fan out). Tensors that come from a file are left alone: transformers guards
        # the functions of torch.nn.init, which reset_parameters uses.
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Scores pictures, and their loss where labels are given.

        Args:
            pixel_values: float `[B, C, H, W]`, normalised by the processor.
            labels: int64 `[B]`.

        Returns:
            `logits` float `[B, classes]`; `loss` float32, the mean cross-entropy, or None.

        Raises:
            ValueError: The pictures have another shape than the network was built for.
        """
        config = self.config
        built_for = (config.num_channels, config.image_height, config.image_width)
        checked = 1 if config.head == "average" else 3  # a mean takes any height and width
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:])[:checked] != built_for[:checked]:
            raise ValueError(
                f"pixel_values: got {list(pixel_values.shape)}. The network was built for "
                f"[batch, {', '.join(map(str, built_for))}]. Prepare images with its processor."
            )
        logits = self._answer(pixel_values)
        if config.shifted_evaluation and not self.training:
            answers = [logits, *map(self._answer, neighbours(pixel_values))]
            logits = torch.stack(answers).float().mean(dim=0)
        loss = None
        if labels is not None:
            loss = cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def _answer(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.head(self.features(pixel_values)))
        if self.config.mirrored_evaluation and not self.training:
            mirrored = self.features(pixel_values.flip(-1))
            logits = (logits + self.classifier(self.head(mirrored))) / 2
        return logits
