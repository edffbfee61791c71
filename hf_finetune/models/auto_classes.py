"""Tells transformers' Auto classes of this package's networks and of their processors.

Nothing is registered by an import: `register` is called by the door's functions, and by whoever
wants to open a saved model with `AutoModelForImageClassification` or `pipeline` directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def register() -> None:
    """Registers the networks and their processors; as often as you like."""
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoImageProcessor,
        AutoModelForAudioClassification,
        AutoModelForImageClassification,
    )

    from hf_finetune.models.image_processing import ClassifierImageProcessor
    from hf_finetune.models.modeling_cnn import CnnConfig, CnnForImageClassification
    from hf_finetune.models.modeling_log_mel_cnn import (
        LogMelCnnConfig,
        LogMelCnnForAudioClassification,
    )
    from hf_finetune.models.modeling_mlp import MlpConfig, MlpForImageClassification
    from hf_finetune.models.spectrogram_processing import LogMelFeatureExtractor

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
    sound = LogMelCnnConfig
    AutoConfig.register(sound.model_type, sound, exist_ok=True)
    AutoModelForAudioClassification.register(sound, LogMelCnnForAudioClassification, exist_ok=True)
    AutoFeatureExtractor.register(sound, LogMelFeatureExtractor, exist_ok=True)


def modality_of(config_class: type) -> Literal["image", "audio"] | None:
    """What the classifiers of a kind of model take, or None where transformers has none.

    Args:
        config_class: Its class of settings, such as `ViTConfig`.
    """
    for modality, classes in _mappings().items():
        if config_class in classes:
            return modality
    return None


def network_classes(config_class: type) -> tuple[type[PreTrainedModel], ...]:
    """The classifiers of a kind of model, the usual one first.

    Args:
        config_class: Its class of settings, such as `ViTConfig`; `modality_of` it is not None.
    """
    found = next(
        classes[config_class] for classes in _mappings().values() if config_class in classes
    )
    return found if isinstance(found, tuple) else (found,)


def _mappings() -> dict[Literal["image", "audio"], Any]:
    """Transformers' classifiers by class of settings; with the package's own once registered."""
    from transformers import (
        MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    )

    return {
        "image": MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        "audio": MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING,
    }
