"""Settles whether a run keeps what the frozen part of its model makes of each clip or image.

Part of `assembly`: the model says what is frozen, the configuration what changes from epoch to
epoch, and the data how much there is to keep.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import datasets

from hf_finetune.config import RunConfig
from hf_finetune.data import LoadedData
from hf_finetune.data.cache_folder import cache_folder
from hf_finetune.engines.compute import Compute
from hf_finetune.engines.length_batches import clip_seconds
from hf_finetune.features import Collator
from hf_finetune.models import Classifier

if TYPE_CHECKING:
    from hf_finetune.features.kept_features import KeptFeatures
    from hf_finetune.models.frozen_backbone import FrozenBackbone
    from hf_finetune.models.frozen_part import FrozenPart

_MOST_CUT = 0.5  # of the training clips may be computed anew in every epoch
_MOST_OF_DISK = 0.5  # of what is free


@dataclass(frozen=True)
class Keeping:
    """What is kept of the frozen part's work in a run.

    Attributes:
        frozen_part: The model's; None where its work is not kept.
        why_not: Then what is computed anew, and the reason.
        example: What it is kept of, for people.
        kept: What is kept so far, by split.
    """

    frozen_part: FrozenPart | FrozenBackbone | None
    why_not: str = ""
    example: str = "a clip"
    kept: dict[str, KeptFeatures] = field(default_factory=dict)

    def equip(
        self, name: str, split: datasets.Dataset, collator: Collator, classifier: Classifier
    ) -> Collator:
        """The collator that reads a split's kept features; computes them where they aren't there.

        Args:
            name: train, validation or test.
            split: Its rows.
            collator: Makes batches of the examples themselves; the answer where nothing is kept.
            classifier: Its config says how wide a batch of clips must be.
        """
        from hf_finetune.features.audio import AudioCollator
        from hf_finetune.features.clip_lengths import least_training_frames
        from hf_finetune.features.images import ImageCollator
        from hf_finetune.features.kept_features import KeptFeatureCollator, keep_clips
        from hf_finetune.features.kept_images import KeptImageCollator, keep_images
        from hf_finetune.models.frozen_backbone import FrozenBackbone

        part = self.frozen_part
        if isinstance(part, FrozenBackbone):
            if not isinstance(collator, ImageCollator):
                return collator
            self.kept[name] = images = keep_images(split, collator, part)
            return KeptImageCollator(images)
        if part is None or not isinstance(collator, AudioCollator):
            return collator
        self.kept[name] = clips = keep_clips(split, collator, part)
        masks = collator.training and part.name == "front end"
        least = least_training_frames(classifier.model.config) if masks else 1
        return KeptFeatureCollator(collator, clips, part, least)

    def describe(self) -> str:
        """What is kept, how large it is and where it lies, in words for the plan."""
        if self.frozen_part is None:
            return self.why_not
        parts = ", ".join(f"{k} {c.num_bytes / 1e6:,.1f} MB" for k, c in self.kept.items())
        missing = sum(clips.num_missing for clips in self.kept.values())
        cut = f"; {missing:,} longer clips are cut at random, and computed each time"
        dtype = str(self.frozen_part.dtype).removeprefix("torch.")
        folder = cache_folder() / "frozen_parts"
        what = f"{self.frozen_part.name}, computed once {self.example} and kept"
        return f"{what}: {parts} of {dtype} in {folder}{cut if missing else ''}"


def settle_keeping(
    config: RunConfig, data: LoadedData, classifier: Classifier, compute: Compute
) -> Keeping | None:
    """Whether to keep the frozen part's features; lets the model take them if so.

    Depends on the configuration, the data and the model only, so that whoever scores the model
    later computes as the run did. A nearly full disk is the exception.

    Args:
        config: The configuration.
        data: Its data.
        classifier: Its model, on its device.
        compute: What it runs on.

    Returns:
        None where the model has no such part that stays frozen, or keeping is switched off.
    """
    if config.features.keep_frozen == "off":
        return None
    if "image" in data.splits["train"].column_names:
        return _settle_images(config, data, classifier, compute)
    frozen_part = _find_part(config, classifier, compute)
    if frozen_part is None:
        return _settle_unknown(config, classifier)
    num_bytes = sum(frozen_part.count_bytes(clip_seconds(split)) for split in data.splits.values())
    why_not = _find_hindrance(config, data, compute, "clip", num_bytes)
    if why_not:
        return Keeping(None, f"{frozen_part.name}, computed in every step: {why_not}")
    frozen_part.accept_ready(classifier.model)
    return Keeping(frozen_part)


def _find_part(config: RunConfig, classifier: Classifier, compute: Compute) -> FrozenPart | None:
    """What of a model for sound stays frozen, as large as can be."""
    from hf_finetune.models.frozen_part import FrozenPart, find_frozen_part
    from hf_finetune.models.frozen_spectrograms import (
        FrozenSpectrogramBackbone,
        has_frozen_spectrogram_backbone,
    )

    name = find_frozen_part(classifier, config.model)
    if name is not None:
        return FrozenPart(classifier, name, compute.precision)
    if has_frozen_spectrogram_backbone(classifier, config.model):
        return FrozenSpectrogramBackbone(classifier, compute.precision)
    return None


def _settle_images(
    config: RunConfig, data: LoadedData, classifier: Classifier, compute: Compute
) -> Keeping | None:
    from hf_finetune.models.frozen_backbone import (
        FrozenBackbone,
        accept_ready_images,
        has_frozen_backbone,
    )

    if not has_frozen_backbone(classifier, config.model):
        return _settle_unknown(config, classifier)
    backbone = FrozenBackbone(classifier, compute.precision)
    num_bytes = float(sum(map(len, data.splits.values()))) * backbone.bytes_per_image
    why_not = _find_hindrance(config, data, compute, "image", num_bytes)
    if why_not:
        return Keeping(None, f"backbone, computed in every step: {why_not}")
    accept_ready_images(classifier.model)
    return Keeping(backbone, example="an image")


def _settle_unknown(config: RunConfig, classifier: Classifier) -> Keeping | None:
    """Says so where a frozen backbone is of a kind whose work can't be kept."""
    from hf_finetune.models.frozen_part import trains_head_alone

    if not trains_head_alone(classifier, config.model):
        return None
    kind = type(classifier.model).__name__
    return Keeping(None, f"backbone, computed in every step: that of {kind} can't be kept")


def _find_hindrance(
    config: RunConfig, data: LoadedData, compute: Compute, example: str, num_bytes: float
) -> str:
    """Why nothing is kept; empty where all is well.

    Args:
        config: The configuration.
        data: Its data.
        compute: Knows the number of processes.
        example: What the examples are: clip or image.
        num_bytes: To keep of all examples.
    """
    if _changes_examples(config, example):
        return f"the augmentation changes the {example}s in every epoch"
    if _count_epochs(config, len(data.splits["train"]), compute.num_processes) <= 1:
        return f"the run sees each {example} only once"
    if example == "clip":
        seconds, most = clip_seconds(data.splits["train"]), config.features.audio.max_seconds
        if most is not None and (seconds > most).mean() > _MOST_CUT:
            return "most training clips are cut at random (features.audio.max_seconds)"
    free = shutil.disk_usage(_nearest_folder(cache_folder())).free
    if num_bytes > _MOST_OF_DISK * free:
        return (
            f"it would take {num_bytes / 1e9:,.1f} GB, and there are {free / 1e9:,.1f} GB "
            f"left in {cache_folder()} (HF_FINETUNE_CACHE names another folder)"
        )
    return ""


def _changes_examples(config: RunConfig, example: str) -> bool:
    """Whether a training example goes into the model otherwise from epoch to epoch."""
    if example == "clip":
        augmentation = config.features.audio.augmentation
        return augmentation.waveform_augmented or augmentation.masks_spectrograms
    from hf_finetune.features.augmentation import changes_images

    return changes_images(config.features.augmentation)


def _count_epochs(config: RunConfig, num_rows: int, num_processes: int) -> float:
    """How often the run sees each training example."""
    train = config.train
    if train.max_steps is None:
        return train.num_train_epochs
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps * num_processes
    return train.max_steps * rows / num_rows


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
