"""What a Hugging Face image processor does to an image, read from its settings.

The image collator does the same to whole batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL.Image import Resampling

from hf_finetune.errors import ModelError
from hf_finetune.features.resizing import FILTERS


@dataclass(frozen=True)
class ImageSettings:
    """What a processor does to an image, in this order.

    Attributes:
        size: (height, width) to resize to; or the shortest edge, the aspect ratio kept; or None.
        resample: One of `resizing.FILTERS`.
        crop_size: (height, width) to cut from the middle, with black around smaller images.
        num_channels: 1 or 3; None leaves images as they are.
        scale: Factor of each channel of uint8 pixels; one number serves all channels.
        float_scale: The same for float pixels, 1.0 being the level 255 where levels are rescaled.
        offset: What is then added.
    """

    size: tuple[int, int] | int | None
    resample: int
    crop_size: tuple[int, int] | None
    num_channels: int | None
    scale: tuple[float, ...]
    float_scale: tuple[float, ...]
    offset: tuple[float, ...]


def read_settings(processor: Any) -> ImageSettings:
    """Reads a Hugging Face image processor.

    Raises:
        ModelError: It asks for a size, filter, channels or normalisation that isn't known here.
    """
    num_channels = _read_channels(processor)
    size, crop_size = _read_sizes(processor)
    scale, float_scale, offset = _read_normalisation(processor, num_channels)
    return ImageSettings(
        size=size,
        resample=_read_filter(processor),
        crop_size=crop_size,
        num_channels=num_channels,
        scale=scale,
        float_scale=float_scale,
        offset=offset,
    )


def _read_sizes(processor: Any) -> tuple[tuple[int, int] | int | None, tuple[int, int] | None]:
    """(size, crop_size) as `ImageSettings` has them."""
    size: tuple[int, int] | int | None = None
    crop_size: tuple[int, int] | None = None
    if getattr(processor, "do_resize", False):
        edges = dict(getattr(processor, "size", None) or {})
        one = set(edges) == {"shortest_edge"}
        size = int(edges["shortest_edge"]) if one else _sides(edges, "size")
    if getattr(processor, "do_center_crop", False):
        crop_size = _sides(processor.crop_size, "crop_size")
    crop_ratio = getattr(processor, "crop_pct", None)
    if crop_ratio and isinstance(size, int):
        # ConvNeXt's and ResNet's processors: below 384 pixels enlarge, then cut; above squeeze.
        if size < 384 or crop_size:
            return int(size / crop_ratio), crop_size or (size, size)
        return (size, size), None
    return size, crop_size


def _sides(size: Any, name: str) -> tuple[int, int]:
    sides = dict(size or {})
    if set(sides) != {"height", "width"}:
        raise ModelError(
            f"processor.{name}: got {sides}. Allowed: height and width, or (for the size) "
            "shortest_edge alone. Set one of these in the model's preprocessor_config.json."
        )
    return int(sides["height"]), int(sides["width"])


def _read_filter(processor: Any) -> int:
    resample = getattr(processor, "resample", None)
    resample = Resampling.BILINEAR if resample is None else resample
    if resample not in FILTERS:
        names = ", ".join(f"{filter_.value} ({filter_.name.lower()})" for filter_ in FILTERS)
        raise ModelError(
            f"processor.resample: unknown filter {resample!r}. Allowed: {names}. "
            "Set one of these in the model's preprocessor_config.json."
        )
    return int(resample)


def _read_channels(processor: Any) -> int | None:
    mean: Any = getattr(processor, "image_mean", None)
    num_channels = getattr(processor, "num_channels", None)
    if num_channels is None:
        num_channels = len(mean) if np.ndim(mean) else None
    if num_channels not in (None, 1, 3):
        raise ModelError(
            f"processor: takes images of {num_channels} channels. Allowed: 1 or 3. "
            "Choose another model, or set image_mean and image_std of 1 or 3 numbers."
        )
    return num_channels


def _read_normalisation(
    processor: Any, num_channels: int | None
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """(scale, float_scale, offset) as `ImageSettings` has them."""
    factor, float_factor = 1.0, 1.0
    if getattr(processor, "do_rescale", False):
        factor, float_factor = processor.rescale_factor, 255 * processor.rescale_factor
    mean, std = np.zeros(1), np.ones(1)
    if getattr(processor, "do_normalize", False):
        mean = np.atleast_1d(np.asarray(processor.image_mean, dtype=np.float64))
        std = np.atleast_1d(np.asarray(processor.image_std, dtype=np.float64))
    sizes_fit = len(mean) in (1, num_channels) and len(std) in (1, num_channels)
    if not (sizes_fit and np.isfinite(mean).all() and np.isfinite(std).all() and std.all()):
        raise ModelError(
            f"processor.image_mean, image_std: can't normalise by {mean.tolist()} and "
            f"{std.tolist()}. Allowed: one number for all channels or one for each of "
            f"{num_channels or 'them'}; standard deviations above 0. Set these in the model's "
            "preprocessor_config.json."
        )
    numbers = np.broadcast_arrays(factor / std, float_factor / std, -mean / std)
    scale, float_scale, offset = (tuple(array.tolist()) for array in numbers)
    return scale, float_scale, offset
