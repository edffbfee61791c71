"""What the networks trained from scratch share: the pictures' size, the processor, the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError

if TYPE_CHECKING:
    from hf_finetune.models import DataDescription
    from hf_finetune.models.image_processing import ClassifierImageProcessor


def config_settings(image_size: int | None, description: DataDescription) -> dict[str, Any]:
    """What a network's Hugging Face config takes from the data.

    Args:
        image_size: The option `model.image_size`: pixels on a side, or None for the data's own.
        description: What the model needs to know of the data.

    Raises:
        ModelError: The images differ in size and no size is given, or the data are no images.
    """
    if description.modality != "image":
        raise ModelError(
            f"model.name: this network takes images, and the data are {description.modality}. "
            "Write model.name: auto_audio (with a checkpoint) or log_mel_cnn."
        )
    height, width = image_size or description.image_height, image_size or description.image_width
    if height is None or width is None:
        raise ModelError(
            "model.image_size: the images of this data set differ in size, and the network takes "
            "one size. Set model.image_size to the pixels on a side, for example 64."
        )
    return {
        "image_height": height,
        "image_width": width,
        "num_channels": description.num_channels,
        "id2label": dict(enumerate(description.label_names)),
        "label2id": {label: number for number, label in enumerate(description.label_names)},
    }


def image_processor(
    settings: dict[str, Any], description: DataDescription
) -> ClassifierImageProcessor:
    """The processor that prepares images as the network takes them.

    Args:
        settings: What `config_settings` answered.
        description: What the model needs to know of the data.

    Raises:
        ModelError: A channel of the training images is the same everywhere.
    """
    from hf_finetune.models.image_processing import ClassifierImageProcessor

    if min(description.image_std) <= 0:
        raise ModelError(
            "data: a channel of the training images has one value everywhere (its standard "
            f"deviations are {description.image_std}). There is nothing to learn from; look at "
            "the images."
        )
    return ClassifierImageProcessor(
        size={"height": settings["image_height"], "width": settings["image_width"]},
        num_channels=description.num_channels,
        image_mean=list(description.image_mean),
        image_std=list(description.image_std),
    )
