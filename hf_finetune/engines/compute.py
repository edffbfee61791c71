"""What a run really computes on: device, precision, threads and processes, settled once.

Read by both engines and by every verb that runs a model; the plan prints it.
"""

from __future__ import annotations

import os
import random
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from hf_finetune.engines.freed_memory import keep_freed_memory
from hf_finetune.engines.options import ComputeOptions
from hf_finetune.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Compute:
    """Settled compute.

    Attributes:
        device: `cuda`, `mps` or `cpu`.
        precision: `fp32`, `bf16` or `fp16` (the last two by autocast).
        channels_last: Whether convolutional models and their inputs use that memory format.
        num_threads: Threads of this process on the CPU.
        num_processes: Processes that train together.
        process_index: This process among them.
        keeps_freed_memory: Whether freed memory stays with the process (`engines.freed_memory`).
    """

    device: str
    precision: str
    channels_last: bool
    num_threads: int
    num_processes: int
    process_index: int
    keeps_freed_memory: bool = False

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes and prints."""
        return self.process_index == 0

    def describe(self) -> dict[str, object]:
        """Plain values for the run's record."""
        return asdict(self)

    def make_accelerator(self, may_skip_parameters: bool = False) -> Accelerator:
        """A fresh accelerate door to this device at this precision.

        Args:
            may_skip_parameters: See `TrainingJob.may_skip_parameters`.
        """
        from accelerate import Accelerator, DistributedDataParallelKwargs
        from accelerate.state import AcceleratorState

        spare_lookups()
        # The state is shared by the whole process and refuses a second precision: start it anew.
        AcceleratorState._reset_state()
        return Accelerator(
            mixed_precision=_mixed_precision(self.precision),
            cpu=self.device == "cpu",
            step_scheduler_with_optimizer=False,
            kwargs_handlers=[
                DistributedDataParallelKwargs(find_unused_parameters=may_skip_parameters)
            ],
        )


def spare_lookups() -> None:
    """Lets accelerate look for an optional optimiser's package once, not on disk in every step.

    Its `AcceleratedOptimizer.step` asks twice whether LOMO is installed, which took as long as the
    optimiser's own step of a small network. Both engines call this before they start.
    """
    from accelerate import optimizer

    asked = getattr(optimizer, "is_lomo_available", None)
    if asked is not None and not hasattr(asked, "cache_info"):
        optimizer.is_lomo_available = cache(asked)


def settle_compute(options: ComputeOptions, prefers_channels_last: bool = False) -> Compute:
    """Settles every `auto`, and sets this process's threads and what becomes of its freed memory.

    `accelerate launch` sets OMP_NUM_THREADS=1, which would leave the other cores idle; the threads
    are therefore always set here.

    Args:
        options: The configuration's `compute` section.
        prefers_channels_last: Whether the model gains from the channels-last memory format.

    Raises:
        UserError: The device isn't there, or can't count at the asked precision.
    """
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    device = _settle_device(options.device)
    precision = _settle_precision(options.precision, device)
    # Alone, channels_last slows fp32 convolutions on the CPU; with 16 bits it is the fastest.
    fast_format = prefers_channels_last and (precision != "fp32" or device == "cuda")
    channels_last = {"channels_last": True, "contiguous": False}.get(
        options.memory_format, fast_format
    )
    # What a launcher's own settings would decide behind the plan's back, the plan decides.
    os.environ["ACCELERATE_MIXED_PRECISION"] = _mixed_precision(precision)
    os.environ.pop("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", None)
    threads = _settle_threads(options.num_threads)
    torch.set_num_threads(threads)
    return Compute(
        device,
        precision,
        channels_last,
        threads,
        num_processes,
        int(os.environ.get("RANK", "0")),
        options.keep_freed_memory and keep_freed_memory(),
    )


def _mixed_precision(precision: str) -> str:
    """Accelerate's word for a precision."""
    return "no" if precision == "fp32" else precision


def _settle_device(wanted: str) -> str:
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, usable in there.items() if usable)
    if not there[wanted]:
        usable_names = ", ".join(name for name, usable in there.items() if usable)
        raise UserError(
            f"compute.device: {wanted!r} is not there. This machine has: {usable_names}. "
            "Write compute.device: auto to take the best."
        )
    return wanted


def _settle_precision(wanted: str, device: str) -> str:
    if wanted == "auto":
        return "bf16" if is_fast_at_bf16(device) else "fp32"
    if wanted == "fp16" and device != "cuda":
        raise UserError(
            f"compute.precision: fp16 needs a CUDA device, this run is on {device}. "
            "Allowed here: fp32, bf16."
        )
    return wanted


def is_fast_at_bf16(device: str) -> bool:
    """Whether a kind of device (`cpu`, `cuda`, `mps`) multiplies bfloat16 in hardware."""
    if device == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False


def _settle_threads(wanted: str | int) -> int:
    if isinstance(wanted, int):
        return wanted
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (usable or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch; weights and dropout are drawn from torch's generator."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
