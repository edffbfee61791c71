"""Tells in one line that the machine has too little memory, whoever found it out.

Place: the command line asks it about errors that are no `UserError`.
"""

from __future__ import annotations

import re

# What torch says on a CPU (on Windows in other words), of sizes beyond all memory, and on a GPU
# (CUDA's and Apple's alike).
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "storage size calculation overflowed",
    "out of memory",
)
_AMOUNT = re.compile(r"tried to allocate ([\d.]+) (\w+)", re.IGNORECASE)


def describe_shortage(error: Exception) -> str | None:
    """The line, or None where the error is of another kind."""
    text = str(error)
    if not isinstance(error, MemoryError) and not any(sign in text.lower() for sign in _SIGNS):
        return None
    amount = _AMOUNT.search(text)
    wanted = ""
    if amount is not None:
        number, unit = amount.groups()
        size = f"{int(number) / 2**30:,.2f} GiB" if unit == "bytes" else f"{number} {unit}"
        wanted = f": there is no room for another {size}"
    return (
        f"out of memory{wanted}. Take smaller batches (train.per_device_train_batch_size, with "
        "train.gradient_accumulation_steps for the same steps; train.per_device_eval_batch_size), "
        "smaller images (model.image_size) or a smaller model."
    )
