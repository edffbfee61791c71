"""Small pictures of three kinds, and folders of them; for the tests of image_folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def draw(kind: int, number: int, height: int = 12, width: int = 12) -> np.ndarray:
    """A picture uint8 `[height, width, 3]`: its colour tells the kind, its noise the number."""
    pixels = np.random.default_rng([kind, number]).integers(0, 60, (height, width, 3))
    pixels[height // 4 : height // 2, :, kind % 3] += 180
    return pixels.astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_classes(
    root: Path, per_class: int = 8, start: int = 0, classes: Sequence[str] = CLASSES
) -> Path:
    """A folder for each class, of pictures in unlike sizes: `cat/0.png`, …; numbered from start."""
    for kind, name in enumerate(classes):
        for number in range(start, start + per_class):
            size = (10 + number % 5, 16 - number % 3)
            save(root / name / f"{number}.png", draw(kind, number, *size))
    return root
