"""Times products of large matrices on every device, in fp32 and bf16.

Place: `hf-finetune doctor --benchmark`. The course takes ten products of 10,000 x 10,000 matrices,
minutes of work for many CPUs: there a smaller size is timed and scaled by the number of operations,
N³.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

COURSE_SIZE = 10_000
PRODUCTS = 10
_SIZES = (10_000, 5_000, 3_000, 2_000, 1_500, 1_000, 500)
_PROBE_SIZE = 500
_BUDGET_SECONDS = 2.0  # of one device at one precision


@dataclass(frozen=True)
class ProductTiming:
    """Ten products on one device.

    Attributes:
        device: cpu, cuda:0, … or mps.
        dtype: float32 or bfloat16.
        size: The matrices that were timed are size x size.
        seconds: Ten times the median of ten products, each waited for; None if it failed.
        failure: Why, where it failed.
    """

    device: str
    dtype: str
    size: int
    seconds: float | None
    failure: str | None = None

    @property
    def scaled_seconds(self) -> float | None:
        """The same at the course's size, by the number of operations."""
        return None if self.seconds is None else self.seconds * (COURSE_SIZE / self.size) ** 3


def list_devices() -> list[str]:
    """The CPU and every accelerator that torch can use."""
    accelerators = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *accelerators, *(["mps"] if torch.backends.mps.is_available() else [])]


def time_devices() -> list[ProductTiming]:
    """Times every device at both precisions, with the threads that torch is set to."""
    dtypes = (torch.float32, torch.bfloat16)
    return [time_products(device, dtype) for device in list_devices() for dtype in dtypes]


def time_products(device: str, dtype: torch.dtype) -> ProductTiming:
    """Times ten products at the largest size that takes about two seconds.

    Args:
        device: As torch names it.
        dtype: Of the matrices.
    """
    name, size = str(dtype).removeprefix("torch."), _PROBE_SIZE
    try:
        probe = min(_time_each(device, dtype, size, 3))
        per_operation = probe * (PRODUCTS + 2) / size**3
        size = next(
            (size for size in _SIZES if per_operation * size**3 <= _BUDGET_SECONDS), _SIZES[-1]
        )
        times = _time_each(device, dtype, size, PRODUCTS)
    except RuntimeError as error:  # the device is full, or doesn't know the type
        return ProductTiming(device, name, size, None, str(error).splitlines()[0])
    return ProductTiming(device, name, size, PRODUCTS * statistics.median(times))


def _time_each(device: str, dtype: torch.dtype, size: int, repeats: int) -> list[float]:
    """Seconds of each product of two matrices `[size, size]`, after one to warm up."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    times = []
    for _ in range(repeats + 1):
        _wait_for(device)
        start = time.perf_counter()
        torch.matmul(left, right)
        _wait_for(device)
        times.append(time.perf_counter() - start)
    return times[1:]


def _wait_for(device: str) -> None:
    """Accelerators only queue their work: the time would be that of the queueing."""
    if device != "cpu":
        torch.accelerator.synchronize(device)
