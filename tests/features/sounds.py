"""Clips for the tests of sound: made, or (where they are) real spoken digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from hf_finetune.features.audio_decoding import describe_audio
from hf_finetune.features.resampling import resample


def tone(seconds: float, rate: int = 16000, seed: int = 0) -> np.ndarray:
    """A tone of falling loudness over a little noise, float32 `[seconds * rate]`."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    sound = 0.4 * np.sin(2 * np.pi * (300 + 40 * seed) * times) * np.exp(-2 * times)
    return (sound + 0.01 * random.standard_normal(len(times))).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16000, **how: Any) -> str:
    """Writes a file; its path as text."""
    soundfile.write(path, samples, rate, **how)
    return str(path)


def raw(paths: list[str], epoch: int = 0, first: int = 0) -> dict[str, Any]:
    """The raw batch of some files."""
    count = len(paths)
    return {
        "audio": [describe_audio(path, None)[0] for path in paths],
        "label": np.arange(count) % 10,
        "epoch": np.full(count, epoch),
        "index": np.arange(first, first + count),
    }


def digits(shared_data: Path, every: int, rate: int = 16000) -> list[torch.Tensor]:
    """Some spoken digits at a rate; their lengths are unequal."""
    paths = sorted((shared_data / "fsdd" / "recordings").glob("*.wav"))[::every]
    clips = (torch.from_numpy(soundfile.read(path, dtype="float32")[0]) for path in paths)
    return [resample(clip, 8000, rate) for clip in clips]
