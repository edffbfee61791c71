"""The features room: what happens in the collator, from raw rows to what the model takes.

The door is `collator_for`: it gives a callable that turns one raw batch into one model batch.

Raw batch (made by `engines.batches.BatchView`), B examples:
    `image`: uint8 or float32 `[B, H, W]` or `[B, H, W, C]`, or a list of B arrays of unequal shape;
        uint8 counts 0…255, float32 counts 0…1
    `label`: int64 `[B]`; `epoch`: int64 `[B]`; `index`: int64 `[B]` (the row's number in its split)
Model batch:
    `pixel_values`: float32 `[B, C, H, W]`; `labels`: int64 `[B]`; `index`: int64 `[B]`;
        the last two only where the raw batch has `label` and `index` (loose files have none)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Protocol

from pydantic import Field

from hf_finetune.options import Section

if TYPE_CHECKING:
    from torch import Tensor


class AugmentationOptions(Section):
    """Random changes to training images, drawn from (seed, epoch, index); nothing by default."""

    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotate by a uniform angle within ± this."""
    shift_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift each axis by a uniform part, within ± this, of the image's side."""
    scale_ratio: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Scale by a factor between 1 / this and this, uniform in its logarithm."""


class FeatureOptions(Section):
    """What happens between a raw row and the model."""

    augmentation: AugmentationOptions = AugmentationOptions()


class Collator(Protocol):
    """Turns one raw batch into one model batch; can be pickled for the workers of a DataLoader."""

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """One model batch from one raw batch, as the room's door describes them."""


def collator_for(processor: Any, options: FeatureOptions, seed: int, training: bool) -> Collator:
    """Builds the collator that belongs to a model's processor.

    Args:
        processor: Hugging Face image processor.
        options: The configuration's `features` section.
        seed: The run's seed; with an example's epoch and index it decides the augmentation.
        training: Whether to augment (what is evaluated never is).

    Raises:
        ModelError: The processor asks for something that the collator doesn't do.
    """
    from hf_finetune.features.images import ImageCollator

    return ImageCollator(processor, options, seed=seed, training=training)
