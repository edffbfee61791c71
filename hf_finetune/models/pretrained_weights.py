"""Loads a checkpoint's weights, finds out what of the network they leave new, and says so.

A step of `pretrained.build_pretrained`; the comparison itself is in `checkpoint_files`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError
from hf_finetune.models.anatomy import head_names
from hf_finetune.models.checkpoint_files import (
    MOST_NAMED,
    Match,
    match_weights,
    own_memory,
    quiet_transformers,
    read_weights,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_finetune.models.network_settings import NetworkSettings
    from hf_finetune.models.pretrained import PretrainedOptions

# What transformers and torch raise for settings that make no network.
_UNBUILDABLE = (ValueError, RuntimeError, ImportError, TypeError, ArithmeticError)


def load_network(
    options: PretrainedOptions, settings: NetworkSettings
) -> tuple[PreTrainedModel, list[str]]:
    """The network with the checkpoint's weights in fp32, and what is to be said about them.

    What the checkpoint lacks is drawn from torch's global generator.

    Raises:
        ModelError: The weights can't be read, more than the head would be new, or a tensor is
            not the file's after loading.
    """
    import torch
    from safetensors import SafetensorError

    folder = settings.folder
    if folder is None:  # `read_settings` lets this pass with pretrained: false only
        raise TypeError("there is no checkpoint to load")
    try:
        with quiet_transformers():
            model: PreTrainedModel = settings.network.from_pretrained(
                folder,
                config=settings.config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                local_files_only=True,
                **_attention(options),
            )
        stored = read_weights(folder)
    except (*_UNBUILDABLE, OSError, SafetensorError) as error:
        raise _explain(error, options) from error
    own_memory(model)
    _restore_untrained(model)
    model.name_or_path = model.config._name_or_path = options.checkpoint
    match = match_weights(model, stored)
    _check(match, head_names(model), options, folder)
    is_sorted = not match.new and _sort_classes(model, settings)
    return model, _describe(match, model, settings, is_sorted)


def _restore_untrained(model: PreTrainedModel) -> None:
    """Freezes again what the network's own code freezes: from_pretrained makes all trainable.

    Whisper's sinusoids are such; a network without memory tells which.
    """
    import torch

    with torch.device("meta"):
        pattern = type(model)(model.config)
    for name, parameter in pattern.named_parameters():
        model.get_parameter(name).requires_grad_(parameter.requires_grad)


def draw_network(
    options: PretrainedOptions, settings: NetworkSettings
) -> tuple[PreTrainedModel, list[str]]:
    """The network with fresh weights in fp32, drawn from torch's global generator.

    Raises:
        ModelError: It can't be built with these settings.
    """
    import torch
    from transformers import AutoModelForAudioClassification, AutoModelForImageClassification

    from hf_finetune.models.auto_classes import modality_of

    is_audio = modality_of(type(settings.config)) == "audio"
    auto = AutoModelForAudioClassification if is_audio else AutoModelForImageClassification
    try:
        model = auto.from_config(settings.config, dtype=torch.float32, **_attention(options))
    except _UNBUILDABLE as error:
        raise _explain(error, options) from error
    return model, []


def _attention(options: PretrainedOptions) -> dict[str, str]:
    return {} if options.attention == "auto" else {"attn_implementation": options.attention}


def _explain(error: Exception, options: PretrainedOptions) -> ModelError:
    text = " ".join(str(error).split()).rstrip(".")
    if options.attention != "auto" and "attention" in text.lower():
        reason = text.partition(". ")[0]  # what follows are addresses to write to
        return ModelError(
            f"model.attention: {options.attention} can't be used here: {reason}. "
            "Write attention: auto."
        )
    return ModelError(
        f"model.checkpoint: {options.checkpoint!r} can't be loaded with these settings: {text}. "
        "Mend model.config, or take another checkpoint."
    )


def _check(match: Match, head: frozenset[str], options: PretrainedOptions, folder: Path) -> None:
    """Stops where the model isn't what the checkpoint says, the head apart."""
    if match.different:
        raise ModelError(
            f"{folder}: {_name_some(match.different)} should have been loaded, and have other "
            "values than the file. Report this with the versions that `hf-finetune doctor` names, "
            "and take another checkpoint."
        )
    ignored = options.ignore_new_tensors
    outside = [
        name
        for name in match.new
        if name not in head and not any(fnmatchcase(name, pattern) for pattern in ignored)
    ]
    if outside:
        raise ModelError(
            f"model.checkpoint: {options.checkpoint!r} has nothing that fits "
            f"{_name_some(outside)}, which are not the head; they would start at random. Undo what "
            "model.config changes about the network, take another checkpoint, allow them by name "
            "in model.ignore_new_tensors, or train from scratch with model.pretrained: false."
        )


def _describe(
    match: Match, model: PreTrainedModel, settings: NetworkSettings, is_sorted: bool
) -> list[str]:
    """What the run survives, and its record repeats."""
    told = []
    distilled = [name for name in settings.stored.get("architectures") or [] if "Teacher" in name]
    if distilled:
        told.append(
            f"model: the checkpoint is a {distilled[0]}, whose two heads transformers has for "
            f"prediction only; it is trained as {type(model).__name__}, with one new head"
        )
    if match.new:
        told.append(f"model: new, drawn at random: {_name_some(match.new)}")
    elif is_sorted:
        told.append(
            "model: the head is the checkpoint's, its classes put into the data's order (they were "
            f"{_other_classes(settings)})"
        )
    elif (others := _other_classes(settings)) is not None:
        told.append(f"model: the head is the checkpoint's, trained for other classes ({others})")
    if match.unused:
        told.append(f"model: left out of the checkpoint: {_name_some(match.unused)}")
    return told


def _other_classes(settings: NetworkSettings) -> str | None:
    """The checkpoint's classes, where they have other names than the data's, or another order."""
    names, own = _classes(settings)
    if names == own:
        return None
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "it names none"


def _classes(settings: NetworkSettings) -> tuple[list[str], list[str]]:
    """The names of the checkpoint's classes and of the data's, by number."""
    stored: Mapping[str, Any] = settings.stored.get("id2label") or {}
    names = [str(stored[number]) for number in sorted(stored, key=int)]
    return names, [name for _, name in sorted(settings.config.id2label.items())]


def _sort_classes(model: PreTrainedModel, settings: NetworkSettings) -> bool:
    """Puts a loaded head's classes into the data's order, where they are the same; whether it did.

    Sets that are read from folders are sorted by name, and others by whoever made them.
    """
    import torch

    names, own = _classes(settings)
    head = head_names(model)
    layers = [
        part
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear)
        and f"{name}.weight" in head
        and part.out_features == len(own)
    ]
    if names == own or sorted(names) != sorted(own) or not layers:
        return False
    rows = [names.index(name) for name in own]
    with torch.no_grad():
        for tensor in layers[-1].parameters(recurse=False):
            tensor.copy_(tensor[rows])
    return True


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more tensors" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
