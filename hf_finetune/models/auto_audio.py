"""Any audio classifier that transformers knows, fine-tuned from a checkpoint."""

from __future__ import annotations

from typing import Literal

from hf_finetune.models import Classifier, DataDescription
from hf_finetune.models.pretrained import PretrainedOptions, build_pretrained


class Options(PretrainedOptions):
    """Options of a pretrained audio model."""

    name: Literal["auto_audio"] = "auto_audio"


def build(options: Options, description: DataDescription) -> Classifier:
    """Loads the checkpoint, with a new head where the classes are others.

    The classifier's processor is the checkpoint's feature extractor.

    Args:
        options: The configuration's `model` section.
        description: What the model needs to know of the data.

    Raises:
        ModelError: See `pretrained.build_pretrained`.
    """
    return build_pretrained(options, description, "audio")
