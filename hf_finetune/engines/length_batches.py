"""Batches of clips of similar length, so that little of a batch is padding.

Used by `batches.make_loader` for data whose examples differ in length, in place of its sampler.
Lengths come from the files' headers; nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from hf_finetune.data.tables import column_values

if TYPE_CHECKING:
    import datasets

    from hf_finetune.features import AudioOptions

Padded = Callable[[float], float]


class LengthBatches(Sampler[list[tuple[int, int]]]):
    """Yields batches of (epoch, index) keys, in an order that follows from the seed and the epoch.

    To be a DataLoader's `batch_sampler`. As with `batches.KeyedSampler`, the engine starts each
    epoch, and the epoch travels in the keys; there is no `set_epoch` that accelerate would call.
    Nor is there a `batch_size`, from which accelerate would conclude that only the last batch may
    be smaller: it hands out the batches to the processes in turn, and where they don't come out
    even, the first ones a second time.

    Every epoch has as many batches as any other. With several processes, the batches that they take
    at the same time are the parts of one batch so many times as large: what a step learns from is
    what a single process would learn from, and no process waits for another's longer clips.

    Args:
        lengths: `[N]`, length of each row, in any unit.
        batch_size: Rows of a batch; a few batches have fewer.
        seed: The run's seed.
        shuffle: Whether rows and batches are shuffled; else the longest come first, so that a
            batch that doesn't fit into memory is met at once.
        window_batches: When shuffling: this many random batches at a time are sorted by length.
        exact: Batches of equal lengths only, for models whose answer depends on padding; then
            there are no windows.
        rounding: When `exact`: lengths that round down to the same multiple of this are equal;
            0: equal is equal.
        num_processes: That take batches in turn.
    """

    def __init__(
        self,
        lengths: NDArray[np.float64],
        batch_size: int,
        seed: int,
        *,
        shuffle: bool,
        window_batches: int = 50,
        exact: bool = False,
        rounding: float = 0.0,
        num_processes: int = 1,
    ) -> None:
        self._lengths = np.asarray(lengths, np.float64)
        # What batches go by; the lengths themselves tell how much is padding.
        self._classes = np.floor(self._lengths / rounding) if exact and rounding else self._lengths
        self._parts = num_processes
        self._rows = batch_size * num_processes
        self._seed = seed
        self._shuffle = shuffle
        self._window = window_batches * self._rows
        self._exact = exact
        self.epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Chooses the order, and what the keys say."""
        self.epoch = epoch

    def __len__(self) -> int:
        counts = np.array([len(self._lengths)])
        if self._exact:
            counts = np.unique(self._classes, return_counts=True)[1]
        whole, rest = np.divmod(counts, self._rows)
        return int((whole * self._parts + np.minimum(rest, self._parts)).sum())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        return ([(epoch, int(index)) for index in batch] for batch in self.order())

    def order(self) -> list[NDArray[np.int64]]:
        """Rows of each batch of the present epoch."""
        random = np.random.default_rng([self._seed, self.epoch])
        rows = np.arange(len(self._lengths))
        if self._shuffle:
            rows = random.permutation(rows)
        size = self._window if self._shuffle and not self._exact else max(len(rows), 1)
        batches = [
            batch
            for start in range(0, len(rows), size)
            for batch in self._cut(rows[start : start + size])
        ]
        if self._shuffle:
            batches = [batches[number] for number in random.permutation(len(batches))]
        # Those that are too small for a part each would shift the turns of all that follow.
        batches.sort(key=lambda batch: len(batch) < self._parts)
        return [batch[part :: self._parts] for batch in batches for part in self._turns(batch)]

    def _turns(self, batch: NDArray[np.int64]) -> range:
        return range(min(self._parts, len(batch)))

    def describe(self, padded: Padded | None = None) -> str:
        """How much of a batch is padding, in words for the plan; and how full equal ones are.

        Args:
            padded: See `padding_share`.
        """
        padding = f"{padding_share(self._lengths, self.order(), padded):.0%} padding"
        if not self._exact:
            return f"batches of similar length, {padding}"
        # Where few clips are equal, a step learns from fewer of them than the batch size says.
        mean = len(self._lengths) / len(self)
        return f"batches of equal length, {mean:.1f} clips on average, {padding}"

    def _cut(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Batches of some rows, the longest first; equally long ones in the order that they had."""
        by_length = rows[np.argsort(-self._classes[rows], kind="stable")]
        runs = [by_length]
        if self._exact:
            runs = np.split(by_length, np.flatnonzero(np.diff(self._classes[by_length])) + 1)
        for run in runs:
            for start in range(0, len(run), self._rows):
                yield run[start : start + self._rows]


def batches_by_length(
    split: datasets.Dataset,
    options: AudioOptions,
    batch_size: int,
    seed: int,
    training: bool,
    num_processes: int = 1,
) -> LengthBatches | None:
    """The batches of a split of sound, or None where rows are taken as they come.

    Args:
        split: A plain Dataset; only an `audio` column of headers (`num_frames`,
            `sampling_rate_hz`) gives lengths.
        options: The configuration's `features.audio` section.
        batch_size: Rows of a batch.
        seed: The run's seed.
        training: Whether to shuffle.
        num_processes: That take batches in turn.
    """
    if "audio" not in split.column_names or options.batches == "random":
        return None
    seconds = clip_seconds(split)
    if options.max_seconds and (training or options.evaluation_windows != "whole"):
        seconds = seconds.clip(max=options.max_seconds)
    return LengthBatches(
        seconds,
        batch_size,
        seed,
        shuffle=training,
        window_batches=options.length_window_batches,
        exact=options.batches == "equal_length",
        rounding=options.length_rounding_seconds,
        num_processes=num_processes,
    )


def clip_seconds(split: datasets.Dataset) -> NDArray[np.float64]:
    """Length of each clip of a split by its header: float64 `[N]`, seconds."""
    frames = np.asarray(column_values(split, "audio", "num_frames"), np.float64)
    return frames / np.asarray(column_values(split, "audio", "sampling_rate_hz"), np.float64)


def padding_share(
    lengths: NDArray[np.float64],
    batches: Sequence[NDArray[np.int64]],
    padded: Padded | None = None,
) -> float:
    """Part of all that a model is given that is padding.

    Args:
        lengths: `[N]`, length of each row.
        batches: Rows of each batch, as `LengthBatches.order` gives them.
        padded: What a batch of unequal rows is padded to, by the longest; None: to just that.

    Returns:
        0 (none) up to, but not including, 1.
    """
    given = 0.0
    for batch in batches:
        own = lengths[batch]
        longest = float(own.max())
        if padded is not None and float(own.min()) < longest:
            longest = padded(longest)
        given += len(batch) * longest
    filled = sum(float(lengths[batch].sum()) for batch in batches)
    return 1 - filled / given
