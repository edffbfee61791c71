"""Keeps what a model's frozen backbone makes of each image, and makes batches of it.

As `kept_features` does for clips, in the same folder under the same kind of names; `keeping` (above
the rooms) says when. The collator here stands in for the image collator, with the same columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_finetune.data.tables import RowReader, column_values
from hf_finetune.features.images import ImageCollator
from hf_finetune.features.kept_features import KeptFeatures, Stretch, keep_features
from hf_finetune.progress_bar import progress_bar

if TYPE_CHECKING:
    from hf_finetune.models.frozen_backbone import FrozenBackbone

_ROWS_AT_A_TIME = 32


class KeptImageCollator:
    """Raw image batch in, model batch of ready features out: `pixel_values` is `[B, channels]`.

    Args:
        images: The kept features of the split that the batches are drawn from.
    """

    def __init__(self, images: KeptFeatures) -> None:
        self._images = images

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """Makes one model batch."""
        rows = np.asarray(raw_batch["index"], np.int64)
        labels = torch.as_tensor(np.asarray(raw_batch["label"], np.int64))
        return {
            "pixel_values": self._images.take(rows),
            "labels": labels,
            "index": torch.from_numpy(rows),
        }


def keep_images(
    split: datasets.Dataset, collator: ImageCollator, backbone: FrozenBackbone
) -> KeptFeatures:
    """The features of a split's images, from the cache folder, or computed now and put there.

    Args:
        split: A plain Dataset with the column `image`.
        collator: That of the split, without augmentation.
        backbone: Makes the features.

    Raises:
        DataError: An image can't be read, or the cache folder can't be written to.
    """
    return keep_features(
        split,
        "image",
        backbone,
        [repr(collator.settings), _describe_reading(split), _ROWS_AT_A_TIME],
        lambda: _compute_all(split, collator, backbone),
    )


def _describe_reading(split: datasets.Dataset) -> list[list[str]]:
    """What is made of files when they are read, which their digests don't all say."""
    cell = split.features["image"]
    names = ("color", "background") if isinstance(cell, dict) else ()
    return [sorted(set(column_values(split, "image", name)), key=str) for name in names]


def _compute_all(
    split: datasets.Dataset, collator: ImageCollator, backbone: FrozenBackbone
) -> Iterator[list[Stretch]]:
    """One frame for every row, in order."""
    reader = RowReader(split, ["image"])
    with progress_bar(len(split), f"frozen {backbone.name}", "image", delay_seconds=1) as bar:
        for start in range(0, len(split), _ROWS_AT_A_TIME):
            rows = np.arange(start, min(start + _ROWS_AT_A_TIME, len(split)))
            images = collator({**reader.read(rows), "index": rows})["pixel_values"]
            for frame in torch.split(backbone.compute(images), 1):
                yield [(frame, 1)]
            bar.update(len(rows))
