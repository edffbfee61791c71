"""Reads a checkpoint's settings, changes what the options ask for, and names the network's class.

The first step of `pretrained.build_pretrained`; no weights are touched here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_finetune.errors import ModelError
from hf_finetune.models import DataDescription
from hf_finetune.models.auto_classes import modality_of, network_classes
from hf_finetune.models.checkpoint_source import find_checkpoint
from hf_finetune.registry import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from hf_finetune.models.pretrained import DropoutOptions, PretrainedOptions

# What each kind of dropout is called, by architecture.
_DROPOUT = {
    "hidden": ("hidden_dropout_prob", "hidden_dropout", "dropout"),
    "attention": ("attention_probs_dropout_prob", "attention_dropout"),
    "activation": ("activation_dropout",),
    "layer": ("layerdrop", "encoder_layerdrop", "drop_path_rate"),
}
# These follow from the data, the checkpoint or other options.
_SETTLED = {
    *("id2label", "label2id", "num_labels", "problem_type"),
    *("architectures", "model_type", "dtype", "transformers_version", "_name_or_path"),
}
_MODALITY_WORDS = {"image": "images", "audio": "audio"}


@dataclass(frozen=True)
class NetworkSettings:
    """A network that is to be built.

    Attributes:
        folder: Where the checkpoint lies; None where only a kind of model was named.
        origin: What to call it.
        config: Its settings, with the data's classes.
        network: Its class.
        stored: The checkpoint's config.json as it is.
    """

    folder: Path | None
    origin: str
    config: PreTrainedConfig
    network: type[PreTrainedModel]
    stored: dict[str, Any]


def read_settings(
    options: PretrainedOptions, description: DataDescription, modality: Literal["image", "audio"]
) -> NetworkSettings:
    """The settings of the network that the options describe.

    Args:
        options: The configuration's `model` section.
        description: Names the classes.
        modality: What the kind of model takes.

    Raises:
        ModelError: There is no such checkpoint, it is for something else, or a setting is unknown.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    folder, origin, stored = _read_checkpoint(options)
    model_type = str(stored.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"model.checkpoint: {options.checkpoint!r} is of a kind that transformers doesn't know "
            f"(model_type {model_type!r} in its config.json; its own code is never run). "
            "Choose another checkpoint, or a newer version of transformers."
        )
    config_class = CONFIG_MAPPING[model_type]
    _check_modality(options, config_class, stored, modality)
    network = _choose_class(network_classes(config_class), stored)
    known = _known_names(config_class)
    changes = {
        **_name_dropout(options.dropout, model_type, known),
        **_check_names(options.config, model_type, known),
    }
    kept = {key: value for key, value in stored.items() if key not in _SETTLED | {"torch_dtype"}}
    classes = dict(enumerate(description.label_names))
    try:
        config = config_class.from_dict(
            {
                **kept,
                **changes,
                "id2label": classes,
                "label2id": {name: number for number, name in classes.items()},
                "problem_type": "single_label_classification",
                "architectures": [network.__name__],
            }
        )
    except (StrictDataclassError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise ModelError(f"model.config: {text}. Mend or leave out the setting.") from error
    return NetworkSettings(folder, origin, config, network, stored)


def _read_checkpoint(options: PretrainedOptions) -> tuple[Path | None, str, dict[str, Any]]:
    """(folder, origin, content of config.json)."""
    from transformers import CONFIG_MAPPING

    name = options.checkpoint
    if name in CONFIG_MAPPING and not Path(name).is_dir():
        if options.pretrained:
            raise ModelError(
                f"model.checkpoint: {name!r} is a kind of model, which has no weights. Name a "
                "checkpoint (owner/name on the Hub, or a folder), or train it from scratch with "
                "model.pretrained: false."
            )
        return None, f"{name} with its default settings", {"model_type": name}
    found = find_checkpoint(name, options.revision)
    try:
        stored = json.loads((found.path / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            f"model.checkpoint: the config.json of {name!r} can't be read: {error}. "
            "Take another copy of the checkpoint."
        ) from error
    return found.path, found.origin, dict(stored)


def _check_modality(
    options: PretrainedOptions, config_class: type, stored: Mapping[str, Any], modality: str
) -> None:
    found = modality_of(config_class)
    if found == modality:
        return
    trained_as = ", ".join(stored.get("architectures") or []) or "no class named"
    what = f"is a {stored['model_type']} model ({trained_as})"
    if found is None:
        raise ModelError(
            f"model.checkpoint: {options.checkpoint!r} {what}, of which transformers makes no "
            f"{modality} classifier. Choose a checkpoint that takes {_MODALITY_WORDS[modality]}."
        )
    raise ModelError(
        f"model.checkpoint: {options.checkpoint!r} {what}, which takes {_MODALITY_WORDS[found]}. "
        f"Write model.name: auto_{found}, or choose a checkpoint that takes "
        f"{_MODALITY_WORDS[modality]}."
    )


def _choose_class(
    classes: tuple[type[PreTrainedModel], ...], stored: Mapping[str, Any]
) -> type[PreTrainedModel]:
    """The checkpoint's own class where it can be trained, else the first of its kind."""
    named = stored.get("architectures") or []
    for network in classes:
        # Distilled DeiT and LeViT: two heads averaged, which transformers has for prediction only.
        if network.__name__ in named and not network.__name__.endswith("WithTeacher"):
            return network
    return classes[0]


def _known_names(config_class: type[PreTrainedConfig]) -> set[str]:
    """Settings of a kind of model that may be changed.

    Raises:
        ModelError: The kind needs a package that is not installed (timm's models need timm).
    """
    try:
        return set(config_class().to_dict()) - _SETTLED
    except ImportError as error:
        raise ModelError(f"model.checkpoint: {' '.join(str(error).split())}") from error


def _name_dropout(dropout: DropoutOptions, model_type: str, known: set[str]) -> dict[str, float]:
    """Dropout under the architecture's names."""
    there = {
        kind: next(name for name in names if name in known)
        for kind, names in _DROPOUT.items()
        if known & set(names)
    }
    wanted = dropout.model_dump(exclude_none=True)
    for kind in wanted:
        if kind not in there:
            raise ModelError(
                f"model.dropout.{kind}: a {model_type} model has none. "
                f"It has: {', '.join(there) or 'no dropout at all'}."
            )
    return {there[kind]: value for kind, value in wanted.items()}


def _check_names(changes: Mapping[str, Any], model_type: str, known: set[str]) -> Mapping[str, Any]:
    for name in changes:
        if name in _SETTLED:
            raise ModelError(
                f"model.config.{name}: it follows from the data, the checkpoint or other settings. "
                "Leave it out."
            )
        if name not in known:
            raise ModelError(
                f"model.config: a {model_type} model has no setting {name!r}. "
                f"{nearest(name, sorted(known))}"
            )
    return changes
