"""Exercise 2: a network in a file of its own: two convolutions and one linear layer.

Place: a plugin; docs/course.md names it in a configuration. torch is imported at the top for the
sake of plain reading; it costs a faulty configuration a few seconds before it is told.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import ImageClassifierOutput

from hf_finetune.models import Classifier, DataDescription, ModelOptions


class Options(ModelOptions):
    """What the configuration's `model` section may say: the name alone."""

    name: Literal["small_cnn"] = "small_cnn"


class SmallCnnConfig(PreTrainedConfig):
    """What must be known to build the network again: the pictures' size; the labels come along."""

    model_type = "course_small_cnn"
    image_height: int = 28
    image_width: int = 28
    num_channels: int = 1


class SmallCnn(PreTrainedModel):
    """A `nn.Module` that transformers can save, load and train."""

    config_class = SmallCnnConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SmallCnnConfig) -> None:
        super().__init__(config)
        # Without padding, a convolution 3x3 takes one pixel off each side.
        height, width = config.image_height - 4, config.image_width - 4
        self.layers = nn.Sequential(
            nn.Conv2d(config.num_channels, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * height * width, config.num_labels),
        )
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PreTrainedModel would draw weights far too small for a network without pretraining.
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor) -> ImageClassifierOutput:
        """Scores of pictures float `[B, C, H, W]`: `logits` float `[B, classes]`."""
        return ImageClassifierOutput(logits=self.layers(pixel_values))


# So that a saved model is known again when this file is loaded.
AutoConfig.register(SmallCnnConfig.model_type, SmallCnnConfig, exist_ok=True)
AutoModelForImageClassification.register(SmallCnnConfig, SmallCnn, exist_ok=True)


def build(options: Options, description: DataDescription) -> Classifier:
    """The network for a data set, and the processor that prepares its images."""
    from hf_finetune.models.from_scratch import config_settings, image_processor

    settings = config_settings(None, description)
    model = SmallCnn(SmallCnnConfig(**settings))
    return Classifier(model, image_processor(settings, description), channels_last=True)
