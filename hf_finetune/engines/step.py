"""The step contract: what one optimiser step is, for both engines, the history and every test.

| | rule |
| --- | --- |
| batch | `gradient_accumulation_steps` micro-batches on each process; fewer at an epoch's tail |
| loss | sum of weighted example losses / sum of example weights, both over the whole batch of all micro-batches and processes; never a mean of means |
| mixed examples | loss `r loss(labels) + (1 - r) loss(mixed_labels)` with `r` the batch's `mix_ratio`, and the weight likewise: the loss of the mixed label, whatever the loss |
| gradient | of that loss; clipped once a step, after the last micro-batch, by its norm over all parameters |
| order | loss and backward of each micro-batch, clip, optimiser, schedule, zero_grad, count the step |
| schedule | one tick an optimiser step, whatever its unit; reduce_on_plateau also hears each evaluation |
| learning rate | the one in force while the step was taken; groups with rates of their own are scaled alike |
| frozen part | no gradient and no dropout, batch norm keeps its statistics; it thaws as its epoch begins, its groups are in the optimiser from the start |
| random numbers | dropout: torch's global generator, seeded when training starts; order and augmentation: (seed, epoch, index); each loader owns a generator that nothing else draws from |
| an epoch's end | evaluate, choose the best, write the checkpoint, log; a kill between any two is harmless |
| logged loss | the same quotient over all steps since the last log: a mean over examples, not steps |
| not a number | a loss that is not finite stops the run when it is next read |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_finetune.losses import Loss

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = Mapping[str, Tensor]
_NOT_FOR_THE_MODEL = {"labels", "index", "mixed_labels", "mix_ratio", "example"}


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """What of a batch the model takes; the loss is the toolkit's own, so no labels."""
    return {name: value for name, value in batch.items() if name not in _NOT_FOR_THE_MODEL}


def of_labels(function: Callable[[Tensor], Tensor], batch: Batch) -> Tensor:
    """What a function says of a batch's labels, mixed as they are.

    Args:
        function: From labels int64 `[B]` to float32 `[B]`.
        batch: With `labels`, and where examples are mixed `mixed_labels` and `mix_ratio`.

    Returns:
        float32 `[B]`.
    """
    values = function(batch["labels"])
    if "mix_ratio" not in batch:
        return values
    ratio = batch["mix_ratio"]
    return ratio * values + (1 - ratio) * function(batch["mixed_labels"])


class TrainingStep:
    """The loss of one optimiser step, cut into micro-batches.

    Args:
        loss: The run's loss.
        accelerator: Tells the number of processes, and sums over them.
    """

    def __init__(self, loss: Loss, accelerator: Accelerator) -> None:
        self._loss = loss
        self._accelerator = accelerator
        self._num_processes = accelerator.num_processes
        self.total_weight = torch.zeros(())
        self._share = torch.zeros(())
        self.loss_sum = torch.zeros(())
        self.num_rows = torch.zeros((), dtype=torch.int64)

    def begin(self, batches: Sequence[Batch]) -> None:
        """Starts a step: sums the example weights of all its micro-batches on all processes."""
        weights = torch.stack([of_labels(self._loss.weights, batch).sum() for batch in batches])
        self.total_weight = self._sum_over_processes(weights.sum())
        # Data parallelism averages gradients over processes where the contract wants their sum.
        self._share = self.total_weight / self._num_processes
        self.loss_sum = torch.zeros_like(self.total_weight)
        rows = sum(len(batch["labels"]) for batch in batches)
        # Counted, not multiplied: of batches by length a process may have fewer rows than another.
        self.num_rows = self._sum_over_processes(torch.tensor(rows, device=weights.device))

    def micro_batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The micro-batch's part of the step's loss, to call backward on; a float32 scalar.

        With several processes, so many times that part: their gradients are averaged.
        """
        logits = model(**model_inputs(batch)).logits
        loss_sum = of_labels(partial(self._loss, logits), batch).sum()
        self.loss_sum = self.loss_sum + loss_sum.detach()
        return loss_sum / self._share

    def end(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of weighted example losses, sum of weights, and rows of the step's whole batch."""
        return self._sum_over_processes(self.loss_sum), self.total_weight, self.num_rows

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self._num_processes == 1:
            return value
        total: Tensor = self._accelerator.reduce(value, reduction="sum")
        return total
