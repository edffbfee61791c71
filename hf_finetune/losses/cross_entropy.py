"""Cross-entropy with label smoothing and class weights."""

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
    """Options of the cross-entropy."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Part of each target that is spread evenly over all classes."""


class CrossEntropy(WeightedByClass):
    """Equals `torch.nn.functional.cross_entropy` once summed and divided by the weights' sum."""

    def __init__(self, class_weights: Tensor | None, label_smoothing: float) -> None:
        super().__init__(class_weights)
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each example, float32 `[B]`."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            logits.float(),
            labels,
            weight=self.weights_on(labels),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )


def build(
    options: Options, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> CrossEntropy:
    """Builds the loss for a data set's classes.

    Args:
        options: The configuration's `loss` section.
        label_names: Class names in the order of the label ids.
        class_counts: Training rows of each class.

    Raises:
        UserError: The given weights don't name each class once.
    """
    class_weights = settle_class_weights(options, label_names, class_counts)
    return CrossEntropy(class_weights, options.label_smoothing)
