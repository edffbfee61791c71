"""Runs a model over a split, once, in the split's order; the engines and every verb use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from hf_finetune.data.tables import column_values
from hf_finetune.engines.step import model_inputs
from hf_finetune.evaluation import Predictions

if TYPE_CHECKING:
    from accelerate import Accelerator


class Predictor:
    """Predicts a split.

    Args:
        split_name: train, validation or test.
        split: The rows that the loader draws from.
        loader: Made by `engines.batches.make_loader`, unshuffled.
        group_columns: Columns to keep beside each prediction.
    """

    def __init__(
        self,
        split_name: str,
        split: datasets.Dataset,
        loader: DataLoader[dict[str, torch.Tensor]],
        group_columns: tuple[str, ...],
    ) -> None:
        self.split_name = split_name
        self._loader = loader
        self._ids = column_values(split, "id")
        self._labels = np.asarray(column_values(split, "label"), dtype=np.int64)
        self._groups = {name: column_values(split, name) for name in group_columns}

    def predict(self, model: nn.Module, accelerator: Accelerator) -> Predictions:
        """Logits of every row, on every process alike.

        The model is left in the mode (training or evaluation) that it was found in, and torch's
        random generator is not drawn from.
        """
        loader = accelerator.prepare_data_loader(self._loader)
        logits = np.full((len(self._ids), 0), 0.0, np.float32)
        was_training = model.training
        model.eval()
        try:
            for index, rows in self._run(model, loader, accelerator):
                if logits.shape[1] == 0:
                    logits = np.full((len(self._ids), rows.shape[1]), np.nan, np.float32)
                logits[index] = (
                    rows  # by index: rows that fill up the last batch fall on themselves
                )
        finally:
            model.train(was_training)
            accelerator._dataloaders.remove(loader)
        return Predictions(self.split_name, self._ids, self._labels, logits, self._groups)

    def _run(self, model: nn.Module, loader: Any, accelerator: Accelerator) -> Any:
        """Row numbers int64 `[B]` and logits float32 `[B, classes]` of each batch."""
        with torch.inference_mode(), accelerator.autocast():
            for batch in loader:
                rows, index = model(**model_inputs(batch)).logits.float(), batch["index"]
                if "example" in batch:
                    rows = average_windows(rows, batch["example"], len(index))
                # Batches by length may have fewer rows on one process than on another.
                index = accelerator.pad_across_processes(index, pad_index=-1)
                rows = accelerator.pad_across_processes(rows)
                index, rows = accelerator.gather((index, rows))
                yield index[index >= 0].cpu().numpy(), rows[index >= 0].cpu().numpy()


def average_windows(logits: torch.Tensor, example: torch.Tensor, num_rows: int) -> torch.Tensor:
    """One row of logits for each example, of those that were evaluated in several windows.

    Args:
        logits: float `[W, classes]`, one row a window.
        example: int64 `[W]`, the example (0 … num_rows - 1) that each window is of; each has one.
        num_rows: Examples.

    Returns:
        float `[num_rows, classes]`, the mean over each example's windows.
    """
    sums = logits.new_zeros(num_rows, logits.shape[1]).index_add_(0, example, logits)
    return sums / torch.bincount(example, minlength=num_rows)[:, None]
