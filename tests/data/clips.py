"""Short clips of three kinds, and folders of them; for the tests of audio_folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

CLASSES = ("buzz", "hum", "tick")


def draw(kind: int, number: int, seconds: float = 0.15, rate: int = 8000) -> np.ndarray:
    """A tone float32 `[seconds * rate]`: its pitch tells the kind, its noise the number."""
    random = np.random.default_rng([kind, number])
    times = np.arange(round(seconds * rate)) / rate
    tone = 0.4 * np.sin(2 * np.pi * 250 * (1 + 2 * kind) * times)
    return (tone + 0.05 * random.uniform(-1, 1, len(times))).astype(np.float32)


def save(path: Path, samples: np.ndarray, rate: int = 8000, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **how)
    return path


def write_classes(
    root: Path, per_class: int = 8, start: int = 0, classes: Sequence[str] = CLASSES
) -> Path:
    """A folder for each class, of clips of unlike lengths: `buzz/0.wav`, …; numbered from start."""
    for kind, name in enumerate(classes):
        for number in range(start, start + per_class):
            seconds = 0.08 + 0.01 * (number % 7)
            save(root / name / f"{number}.wav", draw(kind, number, seconds))
    return root


def write_named(root: Path, speakers: Sequence[str], takes: int) -> Path:
    """Clips whose names tell everything: `0_anna_0.wav`."""
    for kind in range(3):
        for voice, speaker in enumerate(speakers):
            for take in range(takes):
                clip = draw(kind, 100 * voice + take, 0.1 + 0.01 * take)
                save(root / f"{kind}_{speaker}_{take}.wav", clip)
    return root
