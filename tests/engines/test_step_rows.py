"""What a step adds up over processes, whose batches may differ in size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_finetune.engines.step import TrainingStep
from hf_finetune.losses.cross_entropy import Options, build


class TwoProcesses:
    """Stands for this process and another, which has 2 rows of weight 1 each step."""

    num_processes = 2

    def reduce(self, value: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "sum"
        return value + 2


def test_rows_are_counted_on_every_process():
    accelerator: Any = TwoProcesses()
    step = TrainingStep(build(Options(), ("a", "b"), (1, 1)), accelerator)
    batches = [{"labels": torch.zeros(rows, dtype=torch.int64)} for rows in (3, 4)]
    step.begin(batches)
    _, weight, rows = step.end()
    assert int(rows) == 3 + 4 + 2
    assert float(weight) == 9


def test_the_mean_of_the_processes_gradients_is_the_gradient_of_the_whole_batch():
    """Four examples here and two there: each counts a sixth, once the processes are averaged."""
    accelerator: Any = TwoProcesses()
    step = TrainingStep(build(Options(), ("a", "b"), (1, 1)), accelerator)
    model = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.zeros_(model.weight)

    def answer(pixel_values: torch.Tensor) -> Any:
        return SimpleNamespace(logits=model(pixel_values))

    labels = torch.zeros(4, dtype=torch.int64)
    batch = {"pixel_values": torch.ones(4, 1), "labels": labels}
    step.begin([batch])
    step.micro_batch_loss(answer, batch).backward()  # type: ignore[arg-type]
    assert model.weight.grad is not None
    # Of one example it is -1/2 and 1/2; the other process's part is not in it.
    assert (model.weight.grad / 2).flatten().tolist() == pytest.approx([-4 / 12, 4 / 12])
