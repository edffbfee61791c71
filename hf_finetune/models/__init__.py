"""The models room: one file a kind; its door builds, saves and loads a model with its processor.

Contract of a kind (`hf_finetune/models/<name>.py`):
    `class Options(ModelOptions)` with `name: Literal["<name>"]`, and
    `build(options, description) -> Classifier`.
Options modules import no torch; the networks live in `modeling_<name>.py`. What needs torch is
imported when it is first used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.options import Section
from hf_finetune.registry import kind_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_finetune.models.adapters import merge_adapters as merge_adapters
    from hf_finetune.models.auto_classes import register as register
    from hf_finetune.models.checkpoint_files import load_classifier as load_classifier
    from hf_finetune.models.checkpoint_files import load_state_dict_file as load_state_dict_file
    from hf_finetune.models.checkpoint_files import save_classifier as save_classifier
    from hf_finetune.models.freezing import Freezing
    from hf_finetune.models.parameter_groups import decay_groups as decay_groups
    from hf_finetune.models.parameter_groups import rate_groups as rate_groups
    from hf_finetune.models.summary import LayerSummary as LayerSummary
    from hf_finetune.models.summary import format_summary as format_summary
    from hf_finetune.models.summary import summarize as summarize

_HOMES = {
    "merge_adapters": "adapters",
    "register": "auto_classes",
    "load_classifier": "checkpoint_files",
    "load_state_dict_file": "checkpoint_files",
    "save_classifier": "checkpoint_files",
    "decay_groups": "parameter_groups",
    "rate_groups": "parameter_groups",
    "LayerSummary": "summary",
    "format_summary": "summary",
    "summarize": "summary",
}


class ModelOptions(Section):
    """What every model understands."""

    name: str


@dataclass(frozen=True)
class DataDescription:
    """What a model needs to know of the data.

    Attributes:
        label_names: Class names in the order of the label ids.
        image_height: Pixels, or None where images differ in size.
        image_width: Pixels, or None where images differ in size.
        num_channels: 1 or 3.
        image_mean: Mean of the training images by channel, on the scale 0…1.
        image_std: Standard deviation of the training pixels by channel, on the scale 0…1.
        modality: What the examples are; audio has no height, no width, and statistics of nothing.
        sampling_rate_hz: Of audio, where all of it has the same rate.
    """

    label_names: tuple[str, ...]
    image_height: int | None
    image_width: int | None
    num_channels: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    modality: Literal["image", "audio"] = "image"
    sampling_rate_hz: int | None = None


@dataclass(frozen=True)
class Classifier:
    """A model and the processor that belongs to it.

    Attributes:
        model: Takes its `main_input_name` (`pixel_values`, `input_values`, `input_features`) and
            answers with `.logits` `[B, classes]`.
        processor: Hugging Face image processor or feature extractor; the collator reads it.
        channels_last: Whether the model gains from the channels-last memory format.
        warnings: What the run survives; each stands in its plan and its record.
        origin: Where the weights come from, for people; empty where they are drawn.
        freezing: What of the model is not trained, or not from the start; None: nothing.
    """

    model: PreTrainedModel
    processor: Any
    channels_last: bool
    warnings: tuple[str, ...] = ()
    origin: str = ""
    freezing: Freezing | None = None


def build_model(options: ModelOptions, description: DataDescription) -> Classifier:
    """Builds the model of a configuration for a data set.

    Args:
        options: The configuration's `model` section; its `name` chooses the kind.
        description: What the model needs to know of the data.

    Raises:
        UserError: It can't be built for these data.
    """
    import_module("hf_finetune.models.auto_classes").register()
    classifier: Classifier = kind_of(options).build(options, description)
    return classifier


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'hf_finetune.models' has no attribute {name!r}")
    return getattr(import_module(f"hf_finetune.models.{_HOMES[name]}"), name)
