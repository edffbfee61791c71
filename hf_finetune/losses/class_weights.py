"""Weights of the classes, as the losses that know them share it.

The weight of an example is that of its class; the step contract divides by the sum of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.errors import UserError
from hf_finetune.losses import LossOptions

if TYPE_CHECKING:
    from torch import Tensor


class ClassWeightOptions(LossOptions):
    """Options of a loss that weighs classes."""

    class_weights: Literal["none", "auto"] | dict[str, Annotated[float, Field(gt=0)]] = "none"
    """`auto`: rows / (classes x rows of the class), from the training split; or one weight a class
    by its name."""


class WeightedByClass:
    """A loss whose example weights are those of the classes.

    Args:
        class_weights: float32 `[classes]`, above 0; None weighs every class 1.
    """

    def __init__(self, class_weights: Tensor | None) -> None:
        self.class_weights = class_weights

    def weights(self, labels: Tensor) -> Tensor:
        """Weight of each example, float32 `[B]` from int64 `[B]`: that of its class."""
        import torch

        class_weights = self.weights_on(labels)
        if class_weights is None:
            return torch.ones_like(labels, dtype=torch.float32)
        return class_weights[labels]

    def weights_on(self, labels: Tensor) -> Tensor | None:
        """Weight of each class, on the device of the labels; None where all are 1."""
        return None if self.class_weights is None else self.class_weights.to(labels.device)


def settle_class_weights(
    options: ClassWeightOptions, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> Tensor | None:
    """Weight of each class of a data set, float32 `[classes]`; None where all are 1.

    Args:
        options: The configuration's `loss` section.
        label_names: Class names in the order of the label ids.
        class_counts: Training rows of each class.

    Raises:
        UserError: The given weights don't name each class once.
    """
    import torch

    if options.class_weights == "none":
        return None
    if options.class_weights == "auto":
        total = sum(class_counts)
        values = [total / (len(class_counts) * count) for count in class_counts]
    else:
        if set(options.class_weights) != set(label_names):
            raise UserError(
                f"loss.class_weights: got weights for {', '.join(options.class_weights)}. "
                f"The classes are {', '.join(label_names)}. Give one weight for each."
            )
        values = [options.class_weights[label] for label in label_names]
    return torch.tensor(values, dtype=torch.float32)
