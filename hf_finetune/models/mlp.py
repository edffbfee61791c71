"""A fully connected network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hf_finetune.models import Classifier, DataDescription, ModelOptions
from hf_finetune.models.from_scratch import config_settings, image_processor


class Options(ModelOptions):
    """Options of the fully connected network."""

    name: Literal["mlp"] = "mlp"
    hidden_sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False)] = (
        256,
        128,
    )
    """Units of each hidden layer."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """After each hidden layer."""
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Resize every image to this many pixels on a side; by default as the data is."""


def build(options: Options, description: DataDescription) -> Classifier:
    """Builds the network with fresh weights, drawn from torch's global generator.

    Args:
        options: The configuration's `model` section.
        description: What the model needs to know of the data.

    Raises:
        ModelError: The images differ in size.
    """
    from hf_finetune.models.modeling_mlp import MlpConfig, MlpForImageClassification

    own = options.model_dump(exclude={"name", "image_size"})
    settings = config_settings(options.image_size, description)
    processor = image_processor(settings, description)
    model = MlpForImageClassification(MlpConfig(**settings, **own))
    return Classifier(model, processor, channels_last=model.gains_from_channels_last)
