"""What `auto_image` and `auto_audio` share: options, and how a checkpoint becomes a classifier.

The steps stand in files of their own: `checkpoint_source` (where it lies), `network_settings`,
`pretrained_weights`, `processors`, `freezing` and `adapters`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hf_finetune.errors import ModelError
from hf_finetune.models import Classifier, DataDescription, ModelOptions
from hf_finetune.options import Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Patterns = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Value = bool | int | float | str | None
Setting = Value | list[Value] | dict[str, Value]
Freeze = (
    Literal["none", "feature_encoder", "backbone"]
    | dict[Literal["first_layers"], PositiveInt]
    | dict[Literal["patterns"], Patterns]
)


class DropoutOptions(Section):
    """Dropout by what it is for, whatever the architecture calls it; null leaves it as it is."""

    hidden: Fraction | None = None
    """After each part of a layer."""
    attention: Fraction | None = None
    """Of attention weights."""
    activation: Fraction | None = None
    """Within the feed-forward part (speech models)."""
    layer: Fraction | None = None
    """Of whole layers: layerdrop, or the drop path rate of image models."""


class LoraOptions(Section):
    """Low-rank adapters in place of training the backbone's weights; needs the extra `lora`."""

    rank: PositiveInt = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """Adapters count alpha / rank times."""
    dropout: Fraction = 0.0
    """Before the adapters."""
    target_modules: Patterns = ("q_proj", "v_proj")
    """Ends of the names of the linear layers that get adapters."""


class PretrainedOptions(ModelOptions):
    """What every pretrained model understands."""

    checkpoint: Annotated[str, Field(min_length=1)]
    """A folder (`./model`), or `owner/name` on the Hugging Face Hub. With `pretrained: false` also
    a kind of model, such as `vit`."""
    revision: str | None = None
    """Branch, tag or commit on the Hub; by default its main branch."""
    pretrained: bool = True
    """False takes the checkpoint's settings only, and draws fresh weights."""
    config: dict[str, Setting] = Field(default_factory=dict)
    """Settings of the network to change, under transformers' own names: `mask_time_prob: 0.1`."""
    dropout: DropoutOptions = DropoutOptions()
    """Dropout, under names that hold for every architecture."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """How attention is computed; `auto` leaves the choice to transformers."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, more time, the same numbers."""
    ignore_new_tensors: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Tensors outside the head that may start at random, by pattern (`*.position_embeddings`)."""
    processor: dict[str, Setting] | None = None
    """Settings of the processor to change (`size`, `image_mean`, …). A checkpoint that brings no
    processor needs this key; `{}` then takes the defaults of its kind of model."""
    freeze: Freeze = "none"
    """What is not trained: `none`, `feature_encoder` (the front end of wav2vec2 and its like),
    `backbone` (all but the head), `{first_layers: 6}` or `{patterns: ["*.embeddings.*"]}`. A frozen
    part runs as in evaluation: no dropout in it, and batch norm keeps its statistics."""
    unfreeze_at_epoch: PositiveInt | None = None
    """Train the frozen part too, once this many epochs are done."""
    lora: LoraOptions | None = None
    """Train low-rank adapters and the head; the saved model has them merged in."""

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_of_the_forms(cls, value: Any) -> Any:
        match value:
            case "none" | "feature_encoder" | "backbone":
                return value
            case {"first_layers": int(count), **rest} if count > 0 and not rest:
                if count is not True:
                    return value
            case {"patterns": [_, *_] as names, **rest} if not rest:
                if all(isinstance(name, str) for name in names):
                    return value
        raise ValueError(
            "must be none, feature_encoder, backbone, {first_layers: 6} or "
            f"{{patterns: ['*.embeddings.*']}}, got {value!r}"
        )

    @model_validator(mode="after")
    def _fitting_together(self) -> PretrainedOptions:
        if self.unfreeze_at_epoch is not None and self.freeze == "none":
            raise ValueError("unfreeze_at_epoch needs something in freeze, and freeze is none")
        if self.lora is not None and self.freeze != "none":
            raise ValueError("lora freezes the backbone by itself; leave freeze out, or lora")
        return self


def build_pretrained(
    options: PretrainedOptions, description: DataDescription, modality: Literal["image", "audio"]
) -> Classifier:
    """Loads a checkpoint for new classes, or draws a network with its settings.

    Args:
        options: The configuration's `model` section.
        description: What the model needs to know of the data.
        modality: What the kind of model takes.

    Returns:
        The classifier; its warnings say which tensors are new, and which of the checkpoint's are
        not used.

    Raises:
        ModelError: The checkpoint can't be had, is for something else, lacks more than a head, or
            doesn't fit the data; or a setting is unknown.
    """
    from hf_finetune.models.network_settings import read_settings
    from hf_finetune.models.pretrained_weights import draw_network, load_network
    from hf_finetune.models.processors import check_together, load_processor

    if description.modality != modality:
        raise ModelError(
            f"model.name: {options.name} takes {modality}, and the data are "
            f"{description.modality}. Write model.name: auto_{description.modality}."
        )
    settings = read_settings(options, description, modality)
    model, warnings = (load_network if options.pretrained else draw_network)(options, settings)
    processor = load_processor(options, settings, modality)
    example = check_together(model, processor, modality)
    if options.gradient_checkpointing:
        _save_memory(model)
    if options.lora is not None:
        from hf_finetune.models.adapters import add_adapters

        add_adapters(model, options.lora, example)
    classifier = Classifier(
        model,
        processor,
        channels_last=bool(getattr(model, "gains_from_channels_last", False)),
        warnings=tuple(warnings),
        origin=settings.origin,
    )
    return _limit_training(classifier, options)


def _save_memory(model: PreTrainedModel) -> None:
    if not model.supports_gradient_checkpointing:
        raise ModelError(
            f"model.gradient_checkpointing: {type(model).__name__} has none. Leave it out."
        )
    # Renamed in transformers 5.23, which warns of the old name.
    new_name = getattr(model, "activation_checkpointing_enable", None)
    (new_name or model.gradient_checkpointing_enable)({"use_reentrant": False})


def _limit_training(classifier: Classifier, options: PretrainedOptions) -> Classifier:
    """Freezes what is not to be trained, or what no training could reach."""
    from hf_finetune.models.freezing import Freezing, choose_frozen, find_unreached

    model = classifier.model
    unreached = find_unreached(model)
    for name in unreached:
        model.get_parameter(name).requires_grad_(False)
    if unreached:
        text = f"model: not trained, since classification doesn't use them: {', '.join(unreached)}"
        classifier = replace(classifier, warnings=(*classifier.warnings, text))
    frozen = choose_frozen(model, options.freeze)
    if not frozen:
        return classifier
    return replace(classifier, freezing=Freezing(model, frozen, options.unfreeze_at_epoch))
