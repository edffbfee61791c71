"""A model of one's own: a ResNet of transformers, small and with fresh weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hf_finetune.models import Classifier, DataDescription, ModelOptions


class Options(ModelOptions):
    """What the configuration's `model` section may say; anything else is an error with its line."""

    name: Literal["small_resnet"] = "small_resnet"
    channels: Annotated[
        tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False, min_length=1)
    ] = (16, 32)
    """Channels of each stage; each halves the sides of the picture."""


def build(options: Options, description: DataDescription) -> Classifier:
    """The model, and the processor that scales images by the training split's mean and deviation.

    Any `PreTrainedModel` that takes `pixel_values` and answers with `.logits` will do. A class of
    your own must be registered with transformers' Auto classes here and when this file is loaded.
    """
    from transformers import ResNetConfig, ResNetForImageClassification

    from hf_finetune.models.from_scratch import config_settings, image_processor

    settings = config_settings(None, description)
    config = ResNetConfig(
        num_channels=settings["num_channels"],
        embedding_size=options.channels[0],
        hidden_sizes=list(options.channels),
        depths=[1] * len(options.channels),
        layer_type="basic",
        id2label=settings["id2label"],
        label2id=settings["label2id"],
    )
    model = ResNetForImageClassification(config)
    return Classifier(model, image_processor(settings, description), channels_last=True)
