"""Cross-entropy with label smoothing and class weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.errors import UserError
from hf_finetune.losses import LossOptions

if TYPE_CHECKING:
    from torch import Tensor


class Options(LossOptions):
    """Options of the cross-entropy."""

    name: Literal["cross_entropy"] = "cross_entropy"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    class_weights: Literal["none", "auto"] | dict[str, Annotated[float, Field(gt=0)]] = "none"
    """`auto`: rows / (classes x rows of the class), from the training split; or one weight a class
    by its name."""


class CrossEntropy:
    """Equals `torch.nn.functional.cross_entropy` once summed and divided by the weights' sum."""

    def __init__(self, class_weights: Tensor | None, label_smoothing: float) -> None:
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each example, float32 `[B]`."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(
            logits.float(),
            labels,
            weight=self._weights_on(labels),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def weights(self, labels: Tensor) -> Tensor:
        """Weight of each example, float32 `[B]`."""
        import torch

        class_weights = self._weights_on(labels)
        if class_weights is None:
            return torch.ones_like(labels, dtype=torch.float32)
        return class_weights[labels]

    def _weights_on(self, labels: Tensor) -> Tensor | None:
        return None if self.class_weights is None else self.class_weights.to(labels.device)


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
    import torch

    if options.class_weights == "none":
        return CrossEntropy(None, options.label_smoothing)
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
    return CrossEntropy(torch.tensor(values, dtype=torch.float32), options.label_smoothing)
