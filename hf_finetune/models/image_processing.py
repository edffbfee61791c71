"""Prepares pictures for the networks trained from scratch, as transformers' processors do.

It knows nothing of this package, so that a copy of this file can go with the weights to the Hub.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs

# Brightness of red, green and blue: ITU-R BT.601, what Pillow's convert("L") takes for uint8.
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class ClassifierImagesKwargs(ImagesKwargs, total=False):  # type: ignore[misc, call-arg]  # no types
    """Settings of a call.

    Attributes:
        num_channels: Channels that the network takes: 1 (grey) or 3 (red, green, blue).
    """

    num_channels: int | None


class ClassifierImageProcessor(PilBackend):  # type: ignore[misc]  # transformers ships no types
    """Any picture to `pixel_values`: as many channels as the network takes, resized, normalised.

    Takes one picture or a list of them, each a PIL image of any mode (turned upright as its EXIF
    data say), a path, or an array or tensor `[H, W]`, `[H, W, C]` or `[C, H, W]` with 1 to 4
    channels (where both ends could be channels, the last one is taken). What numbers mean:

    | type | range |
    | --- | --- |
    | uint8, and other integers within it; PIL's mode I | 0…255 |
    | uint16, PIL's modes I;16 | 0…65535, rounded to 0…255 |
    | float, PIL's mode F | 0…1, never rounded |
    | bool, PIL's mode 1 | false is 0, true is 255 |

    Transparent pictures are laid on black: a transparent pixel gives no light. Colour becomes grey
    by BT.601, grey becomes three equal channels. (`pipeline` turns a PIL image into RGB before any
    processor sees it: it drops transparency and cuts 16-bit values off at 255. Pass it arrays.)

    The answer's `pixel_values` are float32 `[C, H, W]` for each picture; with
    `return_tensors="pt"` one tensor `[B, C, H, W]`.
    """

    valid_kwargs = ClassifierImagesKwargs

    do_resize = True
    size = {"height": 28, "width": 28}  # noqa: RUF012  # transformers copies it for each processor
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = 0.5
    image_std = 0.5
    num_channels = 1

    def _prepare_images_structure(self, images: Any, expected_ndims: int = 3) -> list[Any]:
        """A flat list of pictures; unlike the base class it takes arrays `[H, W]`."""
        images = self.fetch_images(images)
        if isinstance(images, list | tuple):
            return [
                picture for entry in images for picture in self._prepare_images_structure(entry)
            ]
        if getattr(images, "ndim", 0) == expected_ndims + 1:
            return list(images)
        return [images]

    def process_image(
        self,
        image: Any,
        num_channels: int | None = None,
        input_data_format: str | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """One picture as uint8 (0…255) or float32 (0…1) `[num_channels, H, W]`.

        Raises:
            ValueError: Values out of range, or an array that isn't a picture.
        """
        if isinstance(image, Image.Image):
            pixels = _array_of(image)
        else:
            if isinstance(image, torch.Tensor):
                image = image.detach().cpu().numpy()
            pixels = _channels_last(image, input_data_format)
        pixels = _on_black(_to_scale(pixels))
        pixels = _to_grey(pixels) if num_channels == 1 else _to_colour(pixels)
        return np.moveaxis(pixels, -1, 0)

    def resize(
        self, image: np.ndarray, size: Any, resample: Any = None, **kwargs: Any
    ) -> np.ndarray:
        """Resizes `[C, H, W]`; the base class would round floats to 256 levels."""
        if image.dtype == np.uint8:
            return np.asarray(super().resize(image, size, resample))
        if image.shape[1:] == (size.height, size.width):
            return image
        planes = [
            Image.fromarray(plane).resize((size.width, size.height), resample) for plane in image
        ]
        return np.stack([np.asarray(plane) for plane in planes])

    def rescale(self, image: np.ndarray, scale: float, **kwargs: Any) -> np.ndarray:
        """Multiplies levels 0…255 by `scale`; floats 0…1 come out on the same scale."""
        if image.dtype == np.uint8:
            return np.asarray(super().rescale(image, scale))
        return image * np.float32(scale * 255)


def _array_of(image: Image.Image) -> np.ndarray:
    """A PIL image as an array `[H, W, C]` that keeps what its mode means."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        array = np.asarray(image)
        return array.astype(array.dtype.newbyteorder("="))[..., None]
    if image.mode in ("1", "L") and "transparency" not in image.info:
        return np.asarray(image.convert("L"))[..., None]
    if image.mode == "La":
        image = image.convert("LA")
    transparent = "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "PA")
    return np.asarray(image.convert("RGBA" if transparent else "RGB"))


def _channels_last(array: np.ndarray, input_data_format: str | None) -> np.ndarray:
    """An array `[H, W]`, `[H, W, C]` or `[C, H, W]` as `[H, W, C]`."""
    if array.ndim == 2 and array.size:
        return array[..., None]
    if array.ndim == 3 and input_data_format is None:
        input_data_format = "channels_last" if 1 <= array.shape[2] <= 4 else "channels_first"
    if array.ndim == 3:
        pixels = np.moveaxis(array, 0, 2) if input_data_format == "channels_first" else array
        if 1 <= pixels.shape[2] <= 4 and pixels.size:
            return pixels
    raise ValueError(
        f"image: got an array of shape {list(array.shape)}. Allowed: [height, width], "
        "[height, width, channels] or [channels, height, width] with 1 to 4 channels. "
        "Pass several images as a list."
    )


def _to_scale(pixels: np.ndarray) -> np.ndarray:
    """Pixels as uint8 0…255 or float32 0…1, whichever is nearer to what they are."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    floating = np.issubdtype(pixels.dtype, np.floating)
    top = 1 if floating else 255
    if not ((pixels >= 0) & (pixels <= top)).all():  # a NaN fails both
        raise ValueError(
            f"image: {pixels.dtype} values must lie within 0…{top}, got "
            f"{pixels.min()}…{pixels.max()}. Pass uint8 0…255 or floats 0…1, not normalised."
        )
    return pixels.astype(np.float32 if floating else np.uint8)


def _on_black(pixels: np.ndarray) -> np.ndarray:
    """Multiplies light by alpha: `[H, W, 2 or 4]` becomes `[H, W, 1 or 3]`."""
    if pixels.shape[2] in (1, 3):
        return pixels
    light, alpha = pixels[..., :-1], pixels[..., -1:]
    if pixels.dtype == np.uint8:
        return np.asarray((light.astype(np.uint32) * alpha + 127) // 255, dtype=np.uint8)
    return np.asarray(light * alpha)


def _to_grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] == 1:
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    return (pixels @ LUMA)[..., None]


def _to_colour(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
