"""Turns raw batches of images into what an image model takes, a whole batch at a time.

The image side of the features room; `collator_for` builds it. It reads the settings of the model's
processor and does what the processor does image by image, the augmentation apart: model and
processor can be shipped together and answer as they did in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from hf_finetune.data.image_files import read_portions
from hf_finetune.errors import DataError, ModelError
from hf_finetune.features import AugmentationOptions, FeatureOptions
from hf_finetune.features.augmentation import augment, changes_images
from hf_finetune.features.color import to_grey
from hf_finetune.features.draws import Keys
from hf_finetune.features.image_settings import ImageSettings, read_settings
from hf_finetune.features.mixing import mix
from hf_finetune.features.resizing import resize
from hf_finetune.features.reused_memory import ReusedMemory

_BLOCK_PIXELS = 16 * 224 * 224
_MOST_LEVELS_APART = 2.0  # torchvision's resize and Pillow's differ by about one level


class ImageCollator:
    """Raw image batch in, model batch out; the contract stands at the room's door.

    `pixel_values` may be a view that repeats one channel three times: read it, don't write to it.
    `labels` and `index` are left out where the raw batch has none.

    Args:
        processor: Hugging Face image processor.
        options: The configuration's `features` section.
        seed: The run's seed, for the augmentation.
        training: Whether to augment.

    Raises:
        ModelError: The processor does something that the collator doesn't.
    """

    def __init__(
        self, processor: Any, options: FeatureOptions, *, seed: int, training: bool
    ) -> None:
        self.settings = read_settings(processor)
        on = training and changes_images(options.augmentation)
        self.augmentation: AugmentationOptions | None = options.augmentation if on else None
        self.seed = seed
        self._memory = ReusedMemory()
        if callable(processor):
            _check_agreement(processor, self.settings)

    def __call__(self, raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """Makes one model batch.

        Raises:
            DataError: Images are of an unknown kind, or don't end up equal in size.
        """
        batch = {"pixel_values": self._pixel_values(raw_batch)}
        for raw_name, name in (("label", "labels"), ("index", "index")):
            if raw_name in raw_batch:
                batch[name] = _as_tensor(raw_batch[raw_name]).to(torch.int64)
        return self._mix(batch, raw_batch) if "mixed_into" in raw_batch else batch

    def _mix(self, batch: dict[str, Tensor], raw_batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mixes the rows at the batch's end into those before them."""
        if self.augmentation is None:
            raise ValueError("a batch to mix came to a collator that doesn't augment")
        mixed_into = np.asarray(raw_batch["mixed_into"])
        examples = np.arange(len(batch["labels"]) - len(mixed_into))
        epochs, indices = (np.asarray(raw_batch[name])[examples] for name in ("epoch", "index"))
        keys = Keys(self.seed, epochs, indices)
        mixed = mix(batch["pixel_values"], batch["labels"], mixed_into, self.augmentation, keys)
        return {**mixed, "index": batch["index"][: len(examples)]}

    def _pixel_values(self, raw_batch: dict[str, Any]) -> Tensor:
        images = raw_batch["image"]
        if not isinstance(images, list | tuple):
            images = _as_tensor(images)
            if not _is_image(images[0]):
                raise _unknown_kind(images[0], range(len(images)), raw_batch)
            return self._process(images, self._keys(raw_batch, np.arange(len(images))))
        portions: Iterable[Sequence[Any]] = [images]
        if isinstance(images[0], dict):
            portions = read_portions(images, torch.get_num_threads())
        results: list[tuple[list[int], Tensor]] = []
        first = 0
        for portion in portions:
            results += self._process_alike(portion, first, raw_batch)
            first += len(portion)
        if len(results) == 1:
            return results[0][1]
        _check_equal_sizes(results, raw_batch)
        pixel_values = torch.empty(len(images), *results[0][1].shape[1:])
        for positions, result in results:
            pixel_values[positions] = result
        return pixel_values

    def _process_alike(
        self, images: Sequence[Any], first: int, raw_batch: dict[str, Any]
    ) -> list[tuple[list[int], Tensor]]:
        """Positions in the batch and pixel values, of images of one shape and type at a time."""
        tensors = {first + place: _as_tensor(image) for place, image in enumerate(images)}
        wrong = [position for position, image in tensors.items() if not _is_image(image)]
        if wrong:
            raise _unknown_kind(tensors[wrong[0]], wrong, raw_batch)
        alike: dict[Any, list[int]] = {}
        for position, image in tensors.items():
            alike.setdefault((image.shape, image.dtype), []).append(position)
        return [
            (
                positions,
                self._process(
                    torch.stack([tensors[position] for position in positions]),
                    self._keys(raw_batch, np.array(positions)),
                ),
            )
            for positions in alike.values()
        ]

    def _keys(
        self, raw_batch: dict[str, Any], positions: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """(epochs, indices) of some examples, where augmentation asks for them."""
        if self.augmentation is None:
            return None
        return np.asarray(raw_batch["epoch"])[positions], np.asarray(raw_batch["index"])[positions]

    def _process(
        self, images: Tensor, keys: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    ) -> Tensor:
        """Images `[B, H, W]` or `[B, H, W, C]` of one shape and type to `[B, C, H, W]`."""
        whole_levels = images.dtype == torch.uint8
        pixels = _as_pixels(images)
        if self.settings.num_channels == 1:
            pixels = to_grey(pixels, whole_levels)
        if self.augmentation is not None and keys is not None:
            pixels = augment(pixels, self.augmentation, self.seed, *keys, whole_levels=whole_levels)
        return _finish(pixels, whole_levels, self.settings, self._memory)


def _as_tensor(values: Any) -> Tensor:
    """A tensor on the same memory, where torch can have it (it warns of what can't be written)."""
    if isinstance(values, Tensor):
        return values
    return torch.from_numpy(np.require(values, requirements=["C", "W"]))


def _as_pixels(images: Tensor) -> Tensor:
    """Images `[B, H, W]` or `[B, H, W, C]` to float32 `[B, C, H, W]` in memory of its own."""
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.to(torch.float32, memory_format=torch.contiguous_format, copy=True)


def _finish(
    pixels: Tensor, whole_levels: bool, settings: ImageSettings, memory: ReusedMemory
) -> Tensor:
    """Resizes, cuts and normalises pixels `[B, C, H, W]`, in their own memory where it fits."""
    scale, offset = _normalisation(settings, whole_levels)
    channels = settings.num_channels or pixels.shape[1]
    size, (height, width) = _sizes_between(pixels, settings)
    made = max(pixels.shape[1], len(scale))
    is_right_size = pixels.shape[-2:] == size == (height, width)
    if is_right_size and pixels.shape[1] == made:
        return pixels.mul_(scale).add_(offset).expand(-1, channels, -1, -1)
    result = memory.empty(len(pixels), made, height, width)
    if is_right_size:
        return torch.mul(pixels, scale, out=result).add_(offset).expand(-1, channels, -1, -1)
    # Some images at a time, so that what lies between stays in the processor's cache.
    count = max(1, _BLOCK_PIXELS // (height * width))
    window = (_middle(size[0], height), _middle(size[1], width))
    scales, offsets = scale.expand(made, 1, 1).flatten().tolist(), offset.expand(made, 1, 1)
    for block, finished in zip(torch.split(pixels, count), torch.split(result, count), strict=True):
        resized = resize(block, *size, settings.resample, whole_levels=whole_levels, window=window)
        cropped = _center_crop(resized, height, width).expand(-1, made, -1, -1)
        for channel, (factor, summand) in enumerate(zip(scales, offsets, strict=True)):
            # scale * pixels + offset, each number written once
            torch.add(summand, cropped[:, channel], alpha=factor, out=finished[:, channel])
    return result.expand(-1, channels, -1, -1)


@lru_cache(maxsize=32)
def _normalisation(settings: ImageSettings, whole_levels: bool) -> tuple[Tensor, Tensor]:
    """What pixels are multiplied by, and what is then added: `[C, 1, 1]`, or `[1, 1, 1]` for all.

    One channel is enough until the model reads three: less than half the time.
    """
    scale = torch.tensor(settings.scale if whole_levels else settings.float_scale)[:, None, None]
    offset = torch.tensor(settings.offset)[:, None, None]
    if bool(((scale == scale[0]) & (offset == offset[0])).all()):
        return scale[:1], offset[:1]
    return scale, offset


def _sizes_between(
    pixels: Tensor, settings: ImageSettings
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) of pixels `[B, C, H, W]` once resized, and once cropped."""
    height, width = pixels.shape[-2:]
    size = (height, width)
    if settings.size is not None:
        size = _target_size(settings.size, height, width)
    return size, settings.crop_size or size


def _target_size(size: tuple[int, int] | int, height: int, width: int) -> tuple[int, int]:
    """(height, width) to resize to; transformers cuts the long side's fraction off."""
    if isinstance(size, tuple):
        return size
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def _middle(side: int, length: int) -> slice:
    """What `_center_crop` leaves of a side: so much of its middle, or all where it is shorter."""
    first = max(0, (side - length) // 2)
    return slice(first, first + length)


def _center_crop(pixels: Tensor, height: int, width: int) -> Tensor:
    """The middle of `[B, C, H, W]`, with black around what is smaller; rounds as transformers."""
    top = -((pixels.shape[-2] - height) // 2)  # rows to add; negative ones are cut off
    left = -((pixels.shape[-1] - width) // 2)
    bottom, right = height - pixels.shape[-2] - top, width - pixels.shape[-1] - left
    if not any((left, right, top, bottom)):
        return pixels  # pad would copy them
    return pad(pixels, (left, right, top, bottom))


def _check_agreement(processor: Any, settings: ImageSettings) -> None:
    """Stops where a processor answers otherwise for a picture than its settings say.

    Some (EfficientNet's, LeViT's, …) do more than their settings tell, and training on other
    pictures than the shipped processor makes would not show until it is used.
    """
    channels = settings.num_channels or 3
    rows, columns = np.mgrid[:72, :96]
    # Waves: smooth enough for every resize to agree on, and nothing alike when moved or swapped.
    waves = [np.sin(rows / (5 + c) + columns / (9 - c) + c) for c in range(channels)]
    picture = np.rint(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)
    picture = picture[..., 0] if channels == 1 else picture
    theirs = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"])
    ours = _finish(_as_pixels(torch.from_numpy(picture[None])), True, settings, ReusedMemory())
    apart = float("inf")
    if theirs.shape == ours.shape:
        level = torch.tensor(settings.scale)[:, None, None]
        apart = ((theirs - ours) / level).abs().mean().item()
    if not apart <= _MOST_LEVELS_APART:
        raise ModelError(
            f"processor: {type(processor).__name__} answers otherwise than its settings say "
            f"(shape {tuple(theirs.shape)} for {tuple(ours.shape)}, {apart:.3g} levels apart). "
            "Allowed: resizing, cropping, rescaling and normalising alone. "
            "Choose a model with such a processor, for example facebook/deit-tiny-patch16-224."
        )


def _is_image(image: Tensor) -> bool:
    """Whether shape and type are known here; the values are the data room's to check."""
    right_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))
    return right_shape and image.numel() > 0 and image.dtype in (torch.uint8, torch.float32)


def _unknown_kind(image: Tensor, wrong: Sequence[int], raw_batch: dict[str, Any]) -> DataError:
    kind = str(image.dtype).removeprefix("torch.")
    return DataError(
        f"image of {_names(wrong, raw_batch)}: got {kind} of shape {tuple(image.shape)}. "
        "Allowed: uint8 or float32, [height, width] or [height, width, channel] with 1 or 3 "
        "channels. Convert the images, for example to RGB."
    )


def _check_equal_sizes(results: list[tuple[list[int], Tensor]], raw_batch: dict[str, Any]) -> None:
    first_positions, first = results[0]
    for positions, result in results:
        if result.shape[1:] != first.shape[1:]:
            raise DataError(
                f"image of {_names(positions, raw_batch)}: [channel, height, width] is "
                f"{list(result.shape[1:])} after processing, but {list(first.shape[1:])} for "
                f"{_names(first_positions, raw_batch)}. A batch takes one size. Set "
                "model.image_size, or choose a processor that resizes or crops to one size."
            )


def _names(positions: Sequence[int], raw_batch: dict[str, Any]) -> str:
    """Examples by file or index (or, without any, by their place in the batch), the first few."""
    images, indices = raw_batch["image"], raw_batch.get("index")
    more = ", …" if len(positions) > 5 else ""
    if isinstance(images, list) and isinstance(images[0], dict):
        return f"{', '.join(images[p]['path'] for p in positions[:5])}{more}"
    names = [str(p if indices is None else int(indices[p])) for p in positions[:5]]
    return f"index {', '.join(names)}{more}"
