"""How many examples a step has, where the processes' batches differ in size."""

from __future__ import annotations

from typing import Any

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
