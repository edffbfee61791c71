"""Keeps clips as they were decoded and resampled, from one epoch to the next.

Part of the audio collator: where a small network trains on short clips, reading them anew in every
epoch would be a good part of each step.
"""

from __future__ import annotations

from torch import Tensor
from torch.utils.data import get_worker_info


class WaveformCache:
    """The first clips that were met, for as long as there is room; none is given up for another.

    In an order that is new in every epoch, giving up the oldest for the newest would only cost.

    Args:
        most_bytes: What the clips may fill; 0: nothing is kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._clips: dict[int, Tensor] = {}
        self._room = most_bytes

    def find(self, index: int) -> Tensor | None:
        """The clip of a row, not to be written to: float32 `[T]`; None where it isn't kept."""
        return self._clips.get(index)

    def keep(self, index: int, clip: Tensor) -> None:
        """Keeps the clip of a row, if there is room; a loader's worker ends with the epoch.

        Args:
            index: The row.
            clip: float32 `[T]`; copied, since it may be a part of something larger.
        """
        if clip.nbytes <= self._room and get_worker_info() is None:
            self._clips[index] = clip.clone()
            self._room -= clip.nbytes
