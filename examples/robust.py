"""A loss of one's own, which wrong labels mislead less: generalised cross-entropy.

Source: Zhang and Sabuncu 2018, "Generalized cross entropy loss for training deep neural networks
with noisy labels", equation 6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hf_finetune.losses import LossOptions

if TYPE_CHECKING:
    from torch import Tensor


class Options(LossOptions):
    """What the configuration's `loss` section may say; anything else is an error with its line."""

    name: Literal["robust"] = "robust"
    q: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Near 0 it is the cross-entropy; 1 is the mean absolute error, the most robust."""


class RobustLoss:
    """`(1 - p^q) / q`, where p is the probability given to the true class."""

    def __init__(self, q: float) -> None:
        self.q = q

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each example, times its weight; the toolkit sums and divides."""
        from torch.nn.functional import cross_entropy

        surprise = cross_entropy(logits.float(), labels, reduction="none")  # -log p
        return -(-self.q * surprise).expm1() / self.q

    def weights(self, labels: Tensor) -> Tensor:
        """Weight of each example, by whose sum the toolkit divides."""
        import torch

        return torch.ones_like(labels, dtype=torch.float32)


def build(
    options: Options, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> RobustLoss:
    """The loss for a data set's classes, with the number of training rows of each."""
    return RobustLoss(options.q)
