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
                rows = model(**model_inputs(batch)).logits.float()
                index, rows = accelerator.gather((batch["index"], rows))
                yield index.cpu().numpy(), rows.cpu().numpy()
