"""Measures whether the answers for clips of sound depend on what they are batched with.

A run with sound writes it down (`padding.json`): some models count padding in, wav2vec2-base among
them, so that a clip alone may be of another class than the same clip in a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hf_finetune.engines.step import model_inputs
from hf_finetune.evaluation.prediction import average_windows

if TYPE_CHECKING:
    from accelerate import Accelerator

_QUARTILES = 4

Keys = list[tuple[int, int]]


def measure_padding(
    model: nn.Module,
    loader: DataLoader[dict[str, Tensor]],
    accelerator: Accelerator,
    seconds: NDArray[np.float64],
    most_clips: int = 64,
) -> dict[str, Any]:
    """Compares the answers for some clips of a split, each alone and in its batch.

    Batches from the shortest to the longest clips are looked at, as they come when the split is
    scored. The model is left in the mode that it was found in.

    Args:
        model: On its device.
        loader: Made by `engines.batches.make_loader` for a split of sound, unshuffled.
        accelerator: Knows the device and the precision.
        seconds: float64 `[N]`, length of each row of the split.
        most_clips: Answered one by one, which takes some seconds.

    Returns:
        Plain values: `clips` that were looked at, `of` so many, the largest `batch_size` among
        them; `changed`: how many are of another class alone; `agreement`: the share that is not;
        `max_logit_difference`; and `quartiles`: the same for each quarter of these clips, from the
        shortest to the longest, with `least_seconds` and `most_seconds`.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), accelerator.autocast():
            batches = _choose_batches(loader, most_clips)
            found = [_compare(model, loader, accelerator, *chosen) for chosen in batches]
    finally:
        model.train(was_training)
    rows, together, alone = (np.concatenate(part) for part in zip(*found, strict=True))
    lengths = seconds[rows]
    order = np.argsort(lengths, kind="stable")
    quarters = [quarter for quarter in np.array_split(order, _QUARTILES) if len(quarter)]
    return {
        "clips": len(rows),
        "of": len(seconds),
        "batch_size": max(len(keys) for keys, _ in batches),
        **_summarize(together, alone),
        "quartiles": [
            {
                "clips": len(quarter),
                "least_seconds": float(lengths[quarter].min()),
                "most_seconds": float(lengths[quarter].max()),
                **_summarize(together[quarter], alone[quarter]),
            }
            for quarter in quarters
        ],
    }


def describe_padding(found: dict[str, Any], split: str) -> str | None:
    """A warning where classes change, in words for the run's record; None where none does.

    Args:
        found: From `measure_padding`.
        split: Name of the split that was looked at.
    """
    if not found["changed"]:
        return None
    return (
        f"{found['changed']} of {found['clips']} {split} clips are of another class alone than in "
        f"batches of {found['batch_size']}, since the model counts padding in (padding.json). "
        "features.audio.batches: equal_length leaves next to no padding; "
        "train.per_device_eval_batch_size: 1 none"
    )


def _choose_batches(
    loader: DataLoader[dict[str, Tensor]], most_clips: int
) -> list[tuple[Keys, list[int]]]:
    """Batches spread evenly over the loader's, and the places in each to look at alone."""
    batches: list[Keys] = list(loader.batch_sampler or [])
    size = max(len(keys) for keys in batches)
    count = min(max(_QUARTILES, most_clips // size), len(batches))
    chosen = [batches[number] for number in _spread(len(batches), count)]
    share = max(most_clips // count, 1)
    return [(keys, _spread(len(keys), min(share, len(keys)))) for keys in chosen]


def _spread(count: int, wanted: int) -> list[int]:
    """So many of the numbers from 0 to count - 1, evenly spread, with both ends."""
    return [round(number) for number in np.linspace(0, count - 1, wanted)]


def _compare(
    model: nn.Module,
    loader: DataLoader[dict[str, Tensor]],
    accelerator: Accelerator,
    keys: Keys,
    places: list[int],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Row numbers `[C]`, and logits float32 `[C, classes]` in the batch and alone."""

    def answer(some: Keys) -> NDArray[np.float32]:
        dataset: Any = loader.dataset
        batch = loader.collate_fn(dataset.__getitems__(some))
        inputs = {k: v.to(accelerator.device) for k, v in batch.items()}
        logits = model(**model_inputs(inputs)).logits.float()
        if "example" in inputs:
            logits = average_windows(logits, inputs["example"], len(some))
        numbers: NDArray[np.float32] = logits.cpu().numpy()
        return numbers

    together = answer(keys)[places]
    alone = np.concatenate([answer([keys[place]]) for place in places])
    return np.array([keys[place][1] for place in places]), together, alone


def _summarize(together: NDArray[np.float32], alone: NDArray[np.float32]) -> dict[str, Any]:
    changed = int((together.argmax(1) != alone.argmax(1)).sum())
    return {
        "changed": changed,
        "agreement": (len(together) - changed) / len(together),
        "max_logit_difference": float(np.abs(together - alone).max()),
    }
