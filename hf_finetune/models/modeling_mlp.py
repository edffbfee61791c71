"""The fully connected network as a Hugging Face model.

It knows nothing of this package, so that a copy of this file can go with the weights to the Hub.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class MlpConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers ships no types
    """Settings of the network.

    Attributes:
        image_height: Pixels.
        image_width: Pixels.
        num_channels: Channels of a picture: 1 (grey) or 3 (red, green, blue).
        hidden_sizes: Units of each hidden layer; none makes it a linear classifier.
        activation: `relu`, `gelu` or `silu`.
        dropout: After each hidden layer.
    """

    model_type = "hf_finetune_mlp"

    image_height: int = 28
    image_width: int = 28
    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = (256, 128)
    activation: str = "relu"
    dropout: float = 0.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.hidden_sizes = list(self.hidden_sizes)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"activation: unknown value {self.activation!r}. Allowed: {', '.join(ACTIVATIONS)}."
            )


class MlpForImageClassification(PreTrainedModel):  # type: ignore[misc]  # transformers ships no types
    """Every pixel of a picture through linear layers."""

    config_class = MlpConfig
    main_input_name = "pixel_values"
    accepts_loss_kwargs = False  # the loss is a mean: Trainer must divide it by accumulated steps
    gains_from_channels_last = False

    def __init__(self, config: MlpConfig) -> None:
        super().__init__(config)
        widths = [
            config.num_channels * config.image_height * config.image_width,
            *config.hidden_sizes,
        ]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [
                nn.Linear(inputs, outputs),
                ACTIVATIONS[config.activation](),
                nn.Dropout(config.dropout),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # torch's own draw, where PreTrainedModel would take N(0, 0.02). Tensors that come from a
        # file are left alone: transformers guards the functions that reset_parameters uses.
        if isinstance(module, nn.Linear):
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
        if tuple(pixel_values.shape[1:]) != built_for:
            raise ValueError(
                f"pixel_values: got {list(pixel_values.shape)}. The network was built for "
                f"[batch, {', '.join(map(str, built_for))}]. Prepare images with its processor."
            )
        logits = self.classifier(self.features(pixel_values))
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        return ImageClassifierOutput(loss=loss, logits=logits)
