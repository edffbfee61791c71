"""Memory for large batches that is used again as soon as nobody holds the batch any more.

The image collator's: fresh memory must be cleared page by page by the system, which took most of
the time of making a batch of 224-pixel pictures.
"""

from __future__ import annotations

import weakref
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEAST_VALUES = 2**18  # below a megabyte, the C library keeps memory itself
_MOST_BLOCKS = 4


class ReusedMemory:
    """A few blocks of memory, each lent to one tensor at a time.

    A block comes back when the tensor and everything that shares its memory (views, what autograd
    keeps) are gone. Where all are lent, more is taken from the system.
    """

    def __init__(self) -> None:
        self._blocks: list[tuple[NDArray[np.float32], weakref.ref[NDArray[np.float32]]]] = []

    def __reduce__(self) -> tuple[type[ReusedMemory], tuple[()]]:
        """A copy, as for another process, begins with no memory."""
        return ReusedMemory, ()

    def empty(self, *shape: int) -> Tensor:
        """A float32 tensor of this shape; its values are whatever the memory held."""
        size = prod(shape)
        if size < _LEAST_VALUES:
            return torch.empty(shape)
        block = next(
            (
                block
                for block, borrower in self._blocks
                if block.size >= size and borrower() is None
            ),
            None,
        )
        if block is None:
            block = np.empty(size, dtype=np.float32)  # NumPy asks for large pages
        lent = block[:size].reshape(shape)
        # The tensor's memory keeps `lent` alive, and dies with it.
        others = [entry for entry in self._blocks if entry[0] is not block]
        self._blocks = [(block, weakref.ref(lent)), *others][:_MOST_BLOCKS]
        return torch.from_numpy(lent)
