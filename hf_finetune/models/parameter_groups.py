"""Sorts a model's parameters for the optimiser: which decay, and which don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_finetune.errors import ModelError

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
