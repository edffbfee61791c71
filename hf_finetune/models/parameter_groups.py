"""Sorts a model's parameters for the optimiser: which decay, and how fast each learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError
from hf_finetune.models.anatomy import head_names, layer_numbers

if TYPE_CHECKING:
    from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for a torch optimiser: weights, which decay, and biases and norms, which don't.

    Both engines use them, in this order: an optimiser's state is kept by position.

    Args:
        model: Its trainable parameters are taken, each once, in the model's own order.
        weight_decay: For the first group; the second has 0.

    Raises:
        ModelError: No parameter is trainable.

    Source: Goyal et al. 2017, section 5.3 (no decay for batch norm); Trainer does the same.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():  # lists a shared parameter once
        if not parameter.requires_grad:
            continue
        owner_name, _, own_name = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        # By the class's name, for the many norms that transformers brings itself.
        is_norm = "Norm" in type(owner).__name__
        (kept if is_norm or own_name.endswith("bias") else decayed).append(parameter)
    if not decayed and not kept:
        raise ModelError(
            "model: every parameter is frozen, so there is nothing to train. Leave the last layer "
            "trainable at least."
        )
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]


def rate_groups(
    model: nn.Module,
    weight_decay: float,
    learning_rate: float,
    head_learning_rate: float,
    layer_decay: float,
) -> list[dict[str, Any]]:
    """Groups with learning rates of their own, each split by decay as in `decay_groups`.

    Of n layers, what follows the last has the whole rate, layer k the rate times
    `layer_decay ** (n + 1 - k)`, and what stands before the first counts as layer 0.

    Args:
        model: Its trainable parameters are taken, each once, in the model's own order.
        weight_decay: For weights; biases and norms have 0.
        learning_rate: Of the backbone.
        head_learning_rate: Of the head.
        layer_decay: Factor from layer to layer; with 1 the backbone has one rate.

    Returns:
        Groups with `lr` and `part`: `head`, `backbone` or `layer 3`.

    Raises:
        ModelError: No parameter is trainable, or the backbone has no layers to tell apart.

    Source: Bao et al. 2022 (BEiT), appendix on fine-tuning; its code's `LayerDecayValueAssigner`.
    """
    head = head_names(model)
    numbers, count = layer_numbers(model) if layer_decay < 1 else ({}, 0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups: dict[tuple[str, float], dict[str, Any]] = {}
    for decay_group in decay_groups(model, weight_decay):
        for parameter in decay_group["params"]:
            name = names[parameter]
            part, rate = "backbone", learning_rate
            if name in head:
                part, rate = "head", head_learning_rate
            elif name in numbers:
                part = f"layer {numbers[name]}"
                rate = learning_rate * layer_decay ** (count + 1 - numbers[name])
            settings = {"part": part, "lr": rate, "weight_decay": decay_group["weight_decay"]}
            group = groups.setdefault((part, settings["weight_decay"]), {"params": [], **settings})
            group["params"].append(parameter)
    return list(groups.values())
