"""A small data set of sound and a small speech model, put together as a run puts them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from datasets import Dataset, DatasetDict
from small_checkpoints import make_classifier_network, write_checkpoint

from hf_finetune.assembly import Workbench, assemble_with
from hf_finetune.config import RunConfig, config_from
from hf_finetune.data import AudioShape, LoadedData
from hf_finetune.data.tables import build_file_dataset
from hf_finetune.engines.compute import seed_everything
from hf_finetune.features.audio_decoding import describe_audio
from hf_finetune.models import Classifier, DataDescription, build_model

LABELS = ("high", "low")
RATE = 16000


def write_clip(path: Path, seconds: float, seed: int) -> str:
    """A tone whose pitch tells its class, over a little noise."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    sound = 0.4 * np.sin(2 * np.pi * (900 - 500 * (seed % 2)) * times)
    soundfile.write(path, sound + 0.02 * random.standard_normal(len(times)), RATE)
    return str(path)


def build_split(folder: Path, seconds: Sequence[float], first: int = 0) -> Dataset:
    """Clips of these lengths; classes in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + len(seconds))
    paths = [write_clip(folder / f"{n}.wav", s, n) for n, s in zip(numbers, seconds, strict=True)]
    clips = [describe_audio(path, None)[0] for path in paths]
    labels = [n % 2 for n in numbers]
    return build_file_dataset({"audio": clips}, [{}] * len(clips), labels, LABELS, {"id": paths})


def load_sounds(folder: Path, train: int = 12, longest: float = 0.4) -> LoadedData:
    """Splits of clips of unequal lengths."""
    random = np.random.default_rng(0)
    sizes = {"train": train, "validation": 6, "test": 6}
    splits = {
        name: build_split(folder / name, random.uniform(0.08, longest, size), 100 * number)
        for number, (name, size) in enumerate(sizes.items())
    }
    counts = (train - train // 2, train // 2)
    return LoadedData(
        DatasetDict(splits),
        LABELS,
        (),
        None,
        counts,
        "made",
        "fingerprint",
        audio_shape=AudioShape(RATE, 0.08, longest),
    )


def configure(folder: Path, kind: str = "wav2vec2", **settings: Any) -> RunConfig:
    """A configuration of such a model with its front end frozen; dotted settings laid over it."""
    checkpoint = folder / f"{kind} checkpoint"
    if not checkpoint.exists():
        seed_everything(1)
        write_checkpoint(checkpoint, kind, make_classifier_network(kind, len(LABELS)))
    tree: dict[str, Any] = {
        "name": "sounds",
        "data": {"name": "corrupt_mnist"},
        "model": {"name": "auto_audio", "checkpoint": str(checkpoint), "freeze": "feature_encoder"},
        "train": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "learning_rate": 0.01,
            "logging_steps": 1,
        },
        "compute": {"precision": "fp32", "device": "cpu"},
        "run": {"directory": str(folder / "runs"), "pictures": False},
    }
    for key, value in settings.items():
        section = tree
        *path, last = key.split("__")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return config_from(tree)


def describe_sounds() -> DataDescription:
    return DataDescription(LABELS, None, None, 1, (0.0,), (1.0,), "audio", RATE)


def assemble_sounds(
    config: RunConfig, data: LoadedData, classifier: Classifier | None = None
) -> Workbench:
    """The workbench of a run on such data."""
    if classifier is None:
        seed_everything(config.seed)
        classifier = build_model(config.model, describe_sounds())
    return assemble_with(config, data, classifier)
