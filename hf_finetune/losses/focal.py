"""Focal loss: cross-entropy that makes little of what the model is already sure of.

Source: Lin et al. 2017, "Focal loss for dense object detection", equations 4 and 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.losses.class_weights import (
    ClassWeightOptions,
    WeightedByClass,
    settle_class_weights,
)

if TYPE_CHECKING:
    from torch import Tensor


class Options(ClassWeightOptions):
    """Options of the focal loss; the paper's alpha is `class_weights`."""

    name: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How much less sure examples count; 0 is the cross-entropy."""


class FocalLoss(WeightedByClass):
    """`-w (1 - p)^gamma log p`, where p is the probability given to the true class.

    The weight of an example, by whose sum a step's loss is divided, is w, its class's weight, and
    not `w (1 - p)^gamma`: that hangs on the logits, and would cancel the very effect, since a batch
    of sure examples would count as much as one of unsure ones. Without class weights the loss is
    thus a mean over examples.
    """

    def __init__(self, class_weights: Tensor | None, gamma: float) -> None:
        super().__init__(class_weights)
        self.gamma = gamma

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each example, float32 `[B]`."""
        import torch
        from torch.nn.functional import cross_entropy

        surprise = cross_entropy(logits.float(), labels, reduction="none")  # -log p
        doubt = -torch.expm1(-surprise)  # 1 - p, whose digits a subtraction would lose near 0
        # At 0 the power's slope is infinite for gamma below 1, and its product with 0 no number.
        factor = doubt.clamp(min=torch.finfo(doubt.dtype).tiny) ** self.gamma
        return self.weights(labels) * factor * surprise


def build(
    options: Options, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> FocalLoss:
    """Builds the loss for a data set's classes.

    Args:
        options: The configuration's `loss` section.
        label_names: Class names in the order of the label ids.
        class_counts: Training rows of each class.

    Raises:
        UserError: The given weights don't name each class once.
    """
    return FocalLoss(settle_class_weights(options, label_names, class_counts), options.gamma)
