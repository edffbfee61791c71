"""Reads many files, in threads where that gains.

Shared by the scan of a data set's files and by the decoding of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

File = TypeVar("File")
Found = TypeVar("Found")

# A thread lets others run only while it decodes. With small files the threads mostly wait for each
# other: images of 28 × 28 to 128 × 128 pixels took longer in two threads than in one.
_LARGE_BYTES = 32 * 1024


def read_files(
    read: Callable[[File], Found], files: Sequence[File], num_bytes: int, num_threads: int
) -> list[Found]:
    """What `read` answers for each file, in their order.

    Args:
        read: Called from several threads at a time, where the files are large.
        files: What it is called with.
        num_bytes: Size of all files together.
        num_threads: How many threads to use at most.
    """
    if min(num_threads, len(files)) < 2 or num_bytes < _LARGE_BYTES * len(files):
        return list(map(read, files))
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(read, files))
