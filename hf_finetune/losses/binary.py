"""Binary cross-entropy: two classes as one logit.

The model keeps a logit for each class, as everywhere; the one logit is their difference, whose
sigmoid is the softmax's probability of the second class. So nothing else need know of this loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from hf_finetune.errors import UserError
from hf_finetune.losses.class_weights import (
    ClassWeightOptions,
    WeightedByClass,
    settle_class_weights,
)

if TYPE_CHECKING:
    from torch import Tensor


class Options(ClassWeightOptions):
    """Options of the binary cross-entropy; torch's `pos_weight` is the second class's weight."""

    name: Literal["binary"] = "binary"


class BinaryCrossEntropy(WeightedByClass):
    """Equals `torch.nn.functional.binary_cross_entropy_with_logits` of the difference of logits.

    The weight of an example, by whose sum a step's loss is divided, is that of its class (torch
    divides by the number of examples instead, where it is given a `pos_weight`).
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each example, float32 `[B]` of float `[B, 2]` and int64 `[B]`."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        first, second = logits.float().unbind(1)
        return binary_cross_entropy_with_logits(
            second - first, labels.float(), weight=self.weights(labels), reduction="none"
        )


def build(
    options: Options, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> BinaryCrossEntropy:
    """Builds the loss for a data set's classes.

    Args:
        options: The configuration's `loss` section.
        label_names: Class names in the order of the label ids.
        class_counts: Training rows of each class.

    Raises:
        UserError: There are not two classes, or the given weights don't name each class once.
    """
    if len(label_names) != 2:
        raise UserError(
            f"loss.name: 'binary' is for two classes, got {len(label_names)}: "
            f"{', '.join(label_names)}. Use cross_entropy or focal."
        )
    return BinaryCrossEntropy(settle_class_weights(options, label_names, class_counts))
