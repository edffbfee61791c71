"""Tells transformers' Auto classes of this package's networks and of their image processor.

Nothing is registered by an import: `register` is called by the door's functions, and by whoever
wants to open a saved model with `AutoModelForImageClassification` or `pipeline` directly.
"""

from __future__ import annotations


def register() -> None:
    """Registers the networks and their processor; as often as you like."""
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    from hf_finetune.models.image_processing import ClassifierImageProcessor
    from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification
    from hf_finetune.models.modeling_mlp import MlpConfig, MlpForImageClassification

    for config_class, model_class in (
        (CnnConfig, CnnForImageClassification),
        (MlpConfig, MlpForImageClassification),
    ):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModelForImageClassification.register(config_class, model_class, exist_ok=True)
        AutoImageProcessor.register(
            config_class,
            image_processor_classes={"pil": ClassifierImageProcessor},
            exist_ok=True,
        )
