"""Keyed batches: one sampler, one view of a split and one loader, shared by both engines.

A batch is asked for by (epoch, index) keys, so that whatever is random about an example (its
augmentation) follows from the seed and its key, and never from who asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_finetune.data.tables import RowReader
from hf_finetune.engines.length_batches import LengthBatches

Key = tuple[int, int]
Partners = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class KeyedSampler(Sampler[Key]):
    """Yields (epoch, index) keys, in an order that follows from the seed and the epoch.

    The engine starts each epoch (`start_epoch`), and the epoch travels in the keys, so that loaders
    that were wrapped, shortened for a resume or moved into a worker process all see the right one.
    There is deliberately no `set_epoch`: accelerate would call it with a count of its own, which
    begins at 0 again after a resume.

    Args:
        size: Rows of the split.
        seed: The run's seed.
        shuffle: Whether to shuffle; else the order of the split.
    """

    def __init__(self, size: int, seed: int, shuffle: bool) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def __len__(self) -> int:
        return self.size

    def start_epoch(self, epoch: int) -> None:
        """Chooses the order, and what the keys say."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order: Sequence[int] = range(self.size)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist()
        return ((self.epoch, index) for index in order)


class BatchView(Dataset[dict[str, Any]]):
    """A split as a source of ready raw batches.

    Args:
        split: A plain Dataset with the columns `image` or `audio`, and `label`.
        partners: Where examples are mixed: chooses which of some (epochs, indices), and the row
            that goes into each. The batch then has these rows at its end.
    """

    def __init__(self, split: datasets.Dataset, partners: Partners | None = None) -> None:
        content = "audio" if "audio" in split.column_names else "image"
        self._reader = RowReader(split, [content, "label"])
        self._partners = partners

    def __len__(self) -> int:
        return len(self._reader)

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """The raw batch of some keys; see `hf_finetune.features` for its columns."""
        epochs, indices = np.asarray(keys, dtype=np.int64).T
        mixing = {}
        if self._partners is not None:
            mixed_into, rows = self._partners(epochs, indices)
            mixing = {"mixed_into": mixed_into}
            epochs = np.concatenate([epochs, epochs[mixed_into]])
            indices = np.concatenate([indices, rows])
        batch: dict[str, Any] = self._reader.read(indices)
        return {**batch, "epoch": epochs, "index": indices, **mixing}

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """The raw batch of a single key."""
        return self.__getitems__([key])


def make_loader(
    split: datasets.Dataset,
    collator: Callable[[dict[str, Any]], dict[str, torch.Tensor]],
    batch_size: int,
    *,
    seed: int,
    shuffle: bool,
    num_workers: int = 0,
    partners: Partners | None = None,
    batches: LengthBatches | None = None,
) -> DataLoader[dict[str, torch.Tensor]]:
    """A loader of model batches over a split.

    With `batches` these say which rows go together, instead of `batch_size` and `shuffle`.

    It owns its random generator: a loader without one draws from torch's global generator each
    time it is iterated, which would change the dropout that follows.
    """
    order: dict[str, Any] = {"batch_sampler": batches}
    if batches is None:
        order = {"batch_size": batch_size, "sampler": KeyedSampler(len(split), seed, shuffle)}
    return DataLoader(
        BatchView(split, partners),
        **order,
        collate_fn=cast("Any", collator),  # BatchView answers with a batch, not a list
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
        pin_memory=torch.cuda.is_available(),
    )


def start_epoch(loader: DataLoader[Any], epoch: int) -> None:
    """Tells a loader made by `make_loader` which epoch comes next."""
    for order in (loader.sampler, loader.batch_sampler):
        if isinstance(order, KeyedSampler | LengthBatches):
            order.start_epoch(epoch)
            return
    raise TypeError("the loader was not made by make_loader")
