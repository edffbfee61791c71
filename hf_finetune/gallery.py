"""Shows single examples of a run as its model gets them: images it sees, clips it hears.

Place: the trackers' `Gallery`, over the workbench; the run directory's sheets are `runs.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

import numpy as np

from hf_finetune.assembly import Workbench
from hf_finetune.engines.batches import BatchView
from hf_finetune.features.audio import AudioCollator
from hf_finetune.trackers import Example


class BenchGallery:
    """Examples of a workbench's splits.

    Args:
        bench: Data, processor and settings.
    """

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def training_examples(self, count: int) -> list[Example]:
        """The first examples of the first epoch, augmented as they are for training."""
        loader = self._bench.make_loader("train", training=True, ready=False)
        order = loader.batch_sampler if loader.batch_size is None else loader.sampler
        keys = islice(cast("Any", order), count)
        if loader.batch_size is None:  # by length: the sampler hands out whole batches
            keys = islice((key for batch in keys for key in batch), count)
        return self._show(loader, list(keys), "train", count)

    def test_examples(self, rows: Sequence[int]) -> list[Example]:
        """Rows of the test split, not augmented."""
        loader = self._bench.make_loader("test", ready=False)
        return self._show(loader, [(0, row) for row in rows], "test", len(rows))

    def _show(
        self, loader: Any, keys: list[tuple[int, int]], split: str, count: int
    ) -> list[Example]:
        if not keys:
            return []
        raw = cast("BatchView", loader.dataset).__getitems__(keys)
        contents, rate = _contents(loader.collate_fn, raw)
        rows = self._bench.data.splits[split].select([row for _, row in keys])
        names = self._bench.data.label_names
        return [
            Example(row_id, names[label], content, rate)
            for row_id, label, content in zip(rows["id"], rows["label"], contents, strict=False)
        ][:count]


def _contents(collator: Any, raw: dict[str, Any]) -> tuple[list[np.ndarray], int | None]:
    """Images or clips of a raw batch, and the sampling rate of clips."""
    if isinstance(collator, AudioCollator):
        clips, owners = collator.read_clips(raw)  # of a long clip perhaps several stretches
        first: dict[int, np.ndarray] = {}
        for owner, clip in zip(owners, clips, strict=True):
            first.setdefault(owner, clip.numpy())
        return list(first.values()), collator.extractor.sampling_rate_hz
    pixels = np.asarray(collator(raw)["pixel_values"].numpy(), dtype=np.float32)
    low, high = pixels.min(), pixels.max()
    levels = np.round((pixels - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    images = np.moveaxis(levels, 1, -1)
    return list(images[..., 0] if images.shape[-1] == 1 else images), None
