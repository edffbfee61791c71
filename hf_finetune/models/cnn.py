"""A convolutional network for small images, trained from scratch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, ModelOptions
from hf_finetune.models.from_scratch import config_settings, image_processor

PRESETS: dict[str, dict[str, Any]] = {
    # Its measured result stands in the header of configs/corrupt_mnist_sample.yaml.
    "default": {
        "channels": (32, 64, 128),
        "convolutions_per_block": 2,
        "kernel_size": 3,
        "padding": "same",
        "norm": "batch",
        "activation": "relu",
        "pool": "max",
        "pool_after": "last",
        "residual": False,
        "head": "average",
        "dropout": 0.0,
    },
    # As many multiplications as the default: each block halves the picture early, and spends what
    # that saves on half as many channels again.
    "residual": {
        "channels": (48, 96, 192),
        "convolutions_per_block": 2,
        "kernel_size": 3,
        "padding": "same",
        "norm": "batch",
        "activation": "relu",
        "pool": "max",
        "pool_after": "first",
        "residual": True,
        "head": "average",
        "dropout": 0.0,
    },
    # The network of the course: three convolutions, each halved by pooling, and one linear layer.
    "course": {
        "channels": (32, 64, 128),
        "convolutions_per_block": 1,
        "kernel_size": 3,
        "padding": "valid",
        "norm": "none",
        "activation": "relu",
        "pool": "max",
        "pool_after": "last",
        "residual": False,
        "head": "flatten",
        "dropout": 0.5,
    },
}


class Options(ModelOptions):
    """Options of the CNN; a preset fills every setting that is not given."""

    name: Literal["cnn"] = "cnn"
    preset: Literal["default", "residual", "course"] = "default"
    """`course` is the network of the course, `default` a stronger one; `residual` costs about as
    much as the default, for longer runs on more data."""
    channels: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(strict=False, min_length=1)]
    """Channels of each block."""
    convolutions_per_block: Annotated[int, Field(gt=0)]
    """Each with its norm and activation."""
    kernel_size: Annotated[int, Field(gt=0)]
    """Pixels on a side."""
    padding: Literal["same", "valid"]
    """`same` keeps the size, `valid` pads nothing."""
    norm: Literal["batch", "group", "none"]
    """After each convolution."""
    activation: Literal["relu", "gelu", "silu"]
    """After each norm."""
    pool: Literal["max", "average", "none"]
    """How each block is halved."""
    pool_after: Literal["first", "last"]
    """Halved after its first convolution (cheaper, so that more channels fit) or its last."""
    residual: bool
    """Add what a block's first convolution gives to what its others make of it."""
    head: Literal["average", "flatten"]
    """What the last linear layer sees: the mean over the picture, or every pixel of it."""
    dropout: Annotated[float, Field(ge=0, lt=1)]
    """Before the last layer."""
    mirrored_evaluation: bool = False
    """Answer, outside training, with the mean over a picture and its mirror image; for pictures
    that mean the same mirrored (training with horizontal_flip: 0.5), at twice the time."""
    shifted_evaluation: bool = False
    """Answer, outside training, with the mean over a picture and the same moved by one pixel left,
    right, up and down, at five times the time."""
    image_size: Annotated[int, Field(gt=0, le=4096)] | None = None
    """Resize every image to this many pixels on a side; by default as the data is."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        # An unknown preset is reported by its own field; this only has something to fill in.
        preset = PRESETS.get(str(values.get("preset", "default")), PRESETS["default"])
        filled = {**preset, **values}
        if filled["padding"] == "valid" and "residual" not in values:
            filled["residual"] = False  # it needs equal sizes
        return filled

    @model_validator(mode="after")
    def _odd_kernel(self) -> Options:
        if self.padding == "same" and self.kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size {self.kernel_size} is even, and padding 'same' would move the "
                "picture by half a pixel; choose an odd size, or padding: valid"
            )
        if self.residual and self.padding == "valid" and self.convolutions_per_block > 1:
            raise ValueError(
                "residual adds what must be equal in size, and padding 'valid' shrinks it; choose "
                "padding: same, or residual: false"
            )
        return self


def build(options: Options, description: DataDescription) -> Classifier:
    """Builds the network with fresh weights, drawn from torch's global generator.

    Args:
        options: The configuration's `model` section.
        description: What the model needs to know of the data.

    Raises:
        ModelError: The images differ in size, or are too small for the blocks.
    """
    from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification

    own = options.model_dump(exclude={"name", "preset", "image_size"})
    settings = config_settings(options.image_size, description)
    processor = image_processor(settings, description)
    try:
        model = CnnForImageClassification(CnnConfig(**settings, **own))
    except ValueError as error:
        raise ModelError(f"model: {error}") from error
    return Classifier(model, processor, channels_last=model.gains_from_channels_last)
