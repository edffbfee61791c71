"""The losses room: one file a loss.

Contract of a kind (`hf_finetune/losses/<name>.py`):
    `class Options(LossOptions)` with `name: Literal["<name>"]`, and
    `build(options, label_names, class_counts) -> Loss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hf_finetune.errors import UserError
from hf_finetune.options import Section
from hf_finetune.registry import kind_of

if TYPE_CHECKING:
    from torch import Tensor


class LossOptions(Section):
    """What every loss understands."""

    name: str


class Loss(Protocol):
    """A loss as the step contract wants it: weighted sums and weights, never a mean.

    The engines divide the sum of `__call__` by the sum of `weights`, both taken over the whole
    accumulated batch of all processes, so that the answer doesn't depend on how it was cut. Where
    examples are mixed (mixup, cutmix), they ask for both labels and take the mean.
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Weighted loss of each example: float32 `[B]` of float `[B, classes]` and int64 `[B]`."""

    def weights(self, labels: Tensor) -> Tensor:
        """Weight of each example: float32 `[B]` from int64 `[B]`."""


def build_loss(
    options: LossOptions, label_names: tuple[str, ...], class_counts: tuple[int, ...]
) -> Loss:
    """Builds the loss of a configuration for a data set's classes, and tries it on three examples.

    Args:
        options: The configuration's `loss` section; its `name` chooses the kind.
        label_names: Class names in the order of the label ids.
        class_counts: Training rows of each class.

    Raises:
        UserError: It can't be built for these classes; or it answers with anything but a number an
            example: a mean, say, by which a run would learn too slowly and say nothing.
    """
    import torch

    loss: Loss = kind_of(options).build(options, label_names, class_counts)
    labels = torch.arange(3) % len(label_names)
    answers = {
        "": loss(torch.zeros(3, len(label_names)), labels),
        ".weights": loss.weights(labels),
    }
    for part, answer in answers.items():
        if not isinstance(answer, torch.Tensor) or answer.shape != (3,):
            shape = list(getattr(answer, "shape", ()))
            raise UserError(
                f"loss.name: {options.name!r}{part} answers three examples with "
                f"{type(answer).__name__} {shape}. Allowed: one number an example, float32 [B], "
                "neither summed nor averaged (reduction='none'); the toolkit sums and divides."
            )
    return loss
