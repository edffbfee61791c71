"""Checkpoints that are whole or not there, in Trainer's file names, read by either engine.

A checkpoint is written beside its place and renamed into it; its manifest of hashes is written
last. Weights are stored under the model's own keys and loaded strictly, and then every tensor is
compared with the file's, so that nothing is left out in silence.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from hf_finetune.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from hf_finetune.engines.job import TrainingJob

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
PROGRESS = "progress.json"


def save_weights(model: nn.Module, path: Path) -> None:
    """Writes every parameter and buffer under the model's own keys."""
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    save_file(tensors, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads what `save_weights` wrote, and compares every tensor with the file's.

    Raises:
        TrainingError: A tensor is missing, unexpected, of another shape, or differs afterwards.
    """
    stored = load_file(path)
    try:
        model.load_state_dict(stored, strict=True)
    except RuntimeError as error:
        raise TrainingError(f"{path}: it doesn't fit this model: {error}") from error
    loaded = model.state_dict()
    differing = [name for name, value in stored.items() if not _same(loaded[name], value)]
    if differing:
        raise TrainingError(
            f"{path}: {len(differing)} tensors differ from the file after loading: "
            f"{', '.join(differing[:5])}."
        )


def _same(loaded: torch.Tensor, stored: torch.Tensor) -> bool:
    return loaded.dtype == stored.dtype and torch.equal(loaded.cpu(), stored)


def save_checkpoint(
    folder: Path, job: TrainingJob, accelerator: Accelerator, progress: dict[str, Any]
) -> None:
    """Writes everything that a resumed run needs; called by every process.

    Args:
        folder: Where the checkpoint will stand; what is there already is replaced.
        job: Whose model, optimiser and schedule are saved.
        accelerator: Names this process, and waits for the others.
        progress: JSON-ready state of `engines.progress.Progress`.
    """
    from transformers.trainer_callback import TrainerState

    unfinished = folder.with_name(f".{folder.name}.unfinished")
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        save_weights(job.model, unfinished / WEIGHTS)
        torch.save(job.optimizer.state_dict(), unfinished / "optimizer.pt")
        torch.save(job.schedule.state_dict(), unfinished / "scheduler.pt")
        if accelerator.scaler is not None:
            torch.save(accelerator.scaler.state_dict(), unfinished / "scaler.pt")
        state = TrainerState(
            global_step=progress["step"],
            epoch=progress["step"] / job.length.steps_per_epoch,
            train_batch_size=job.train.per_device_train_batch_size,
        )
        state.save_to_json(str(unfinished / "trainer_state.json"))
        (unfinished / PROGRESS).write_text(json.dumps(progress, indent=1))
    accelerator.wait_for_everyone()
    torch.save(_random_state(), unfinished / f"rng_state_{accelerator.process_index}.pth")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        write_manifest(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    accelerator.wait_for_everyone()


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file of a folder; its presence says that the folder is whole."""
    hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps(hashes, indent=1))


def check_manifest(folder: Path) -> None:
    """Compares a folder with its manifest.

    Raises:
        TrainingError: There is no manifest, or a file is missing or has changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise TrainingError(f"{folder}: it has no {MANIFEST}, so it is no whole checkpoint.")
    for name, expected in json.loads(manifest.read_text()).items():
        path = folder / name
        if not path.is_file() or _sha256(path) != expected:
            raise TrainingError(
                f"{path}: the file is missing or has changed since it was written. "
                "Resume from another checkpoint."
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def find_latest(folder: Path) -> Path | None:
    """The whole checkpoint with the most steps, or None."""
    whole = [path for path in folder.glob("step-*") if (path / MANIFEST).is_file()]
    return max(whole, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def load_checkpoint(folder: Path, job: TrainingJob) -> dict[str, Any]:
    """Puts model, optimiser and schedule where the checkpoint left them.

    The random generators are put back apart (`load_random_state`), just before the first step.

    Returns:
        What `Progress` had saved.

    Raises:
        TrainingError: The checkpoint is not whole, or doesn't fit the model.
    """
    check_manifest(folder)
    load_weights(job.model, folder / WEIGHTS)
    device = next(job.model.parameters()).device
    optimizer_state = torch.load(folder / "optimizer.pt", map_location=device, weights_only=True)
    try:
        job.optimizer.load_state_dict(optimizer_state)
    except ValueError as error:
        raise TrainingError(f"{folder}: its optimiser doesn't fit this run: {error}") from error
    job.schedule.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
    return read_progress(folder)


def load_scaler(folder: Path, accelerator: Accelerator) -> None:
    """Puts the gradient scaler of fp16 where the checkpoint left it, where there is one."""
    path = folder / "scaler.pt"
    if accelerator.scaler is not None and path.is_file():
        accelerator.scaler.load_state_dict(torch.load(path, weights_only=True))


def read_progress(folder: Path) -> dict[str, Any]:
    """What `Progress` had saved in a checkpoint."""
    progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return progress


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def load_random_state(folder: Path, process_index: int) -> None:
    """Puts the generators of Python, NumPy and torch back to where the checkpoint left them."""
    path = folder / f"rng_state_{process_index}.pth"
    if not path.is_file():
        raise TrainingError(
            f"{folder}: it was written by fewer processes than this run has ({path.name} is "
            "missing). Resume with as many processes as the run was started with."
        )
    state = torch.load(path, weights_only=True)
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
