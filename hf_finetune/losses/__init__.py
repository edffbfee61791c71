"""The losses room: one file a loss.

Contract of a kind (`hf_finetune/losses/<name>.py`):
    `class Options(LossOptions)` with `name: Literal["<name>"]`, and
    `build(options, label_names, class_counts) -> Loss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hf_finetune.options import Section

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
