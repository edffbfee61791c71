"""Where pixels go: an affine map of each image in one resampling, and exact crops and flips.

The first stages of the augmentation; the policy's changes of place are resampled here, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from hf_finetune.errors import DataError
from hf_finetune.features.augmentation_options import AugmentationOptions
from hf_finetune.features.draws import Draw, Keys

_FILLS = {"zero": "constant", "reflect": "reflect"}


@dataclass(frozen=True)
class Crops:
    """Rectangles to enlarge to the image's size.

    Attributes:
        sides: float64 `[B, 2]`, (width, height) as parts of the image's, in (0, 1].
        centres: float64 `[B, 2]`, (x, y) on a scale from -1 to 1 over the image.
    """

    sides: NDArray[np.float64]
    centres: NDArray[np.float64]


def pad_and_crop(images: Tensor, options: AugmentationOptions, keys: Keys) -> Tensor:
    """Pads each image, and cuts its size out again at a random whole pixel; nothing is resampled.

    Args:
        images: float32 `[B, C, H, W]`.
        options: `pad_crop_pixels` and `pad_crop_fill`.
        keys: Whose numbers to draw, B examples.

    Returns:
        float32 `[B, C, H, W]`.

    Raises:
        DataError: Images are too small to be mirrored as far as that.

    Source:
        He et al. 2016, "Deep residual learning for image recognition", §4.2.
    """
    pixels = options.pad_crop_pixels
    if not pixels:
        return images
    height, width = images.shape[-2:]
    if options.pad_crop_fill == "reflect" and pixels >= min(height, width):
        raise DataError(
            f"features.augmentation.pad_crop_pixels: {pixels} pixels of an image can't be mirrored "
            f"where it has {height} x {width}. Allowed: fewer than its shorter side. Lower it, or "
            "set features.augmentation.pad_crop_fill to zero."
        )
    left, top = (
        torch.from_numpy(keys.whole(2 * pixels + 1, draw))
        for draw in (Draw.PAD_CROP_X, Draw.PAD_CROP_Y)
    )
    padded = pad(images, (pixels,) * 4, mode=_FILLS[options.pad_crop_fill])
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: every place at once
    return windows[torch.arange(len(images)), :, top, left]


def move(images: Tensor, options: AugmentationOptions, keys: Keys) -> Tensor:
    """Crops, shears, rotates, scales and shifts each image, as far as the options say.

    Args:
        images: float32 `[B, C, H, W]`.
        options: `crop_…`, `shear_degrees`, `rotation_degrees`, `scale_ratio`, `shift_fraction`.
        keys: Whose numbers to draw, B examples.

    Returns:
        float32 `[B, C, H, W]`.
    """
    crops = None
    if options.crop_area_fraction != (1.0, 1.0):
        crops = draw_crops(options, keys, images.shape[-1] / images.shape[-2])
    off = AugmentationOptions()
    turns = any(
        getattr(options, name) != getattr(off, name)
        for name in ("shear_degrees", "rotation_degrees", "scale_ratio", "shift_fraction")
    )
    if not turns and crops is None:
        return images
    angles = np.deg2rad(options.rotation_degrees) * keys.signed(Draw.ROTATION)
    scales = options.scale_ratio ** keys.signed(Draw.SCALE)
    directions = [keys.signed(draw) for draw in (Draw.SHIFT_X, Draw.SHIFT_Y)]
    shifts = options.shift_fraction * np.stack(directions, axis=1)
    shears = None
    if options.shear_degrees:
        shears = np.deg2rad(options.shear_degrees) * keys.signed(Draw.SHEAR)
    # A crop alone brings nothing in from outside; black would darken the edges that it touches.
    return transform(
        images,
        angles,
        scales,
        shifts,
        crops,
        shears,
        black_outside=turns,
        interpolation=options.interpolation,
    )


def draw_crops(options: AugmentationOptions, keys: Keys, aspect_ratio: float) -> Crops:
    """Where each image is cropped.

    Args:
        options: `crop_area_fraction` and `crop_aspect_ratio`.
        keys: Whose numbers to draw, B examples.
        aspect_ratio: Width by height of the images.

    Source:
        Szegedy et al. 2015, "Going deeper with convolutions", §6.
    """
    areas = keys.between(*options.crop_area_fraction, Draw.CROP_AREA)
    ratios = draw_ratios(keys, Draw.CROP_ASPECT, options.crop_aspect_ratio, areas, aspect_ratio)
    sides = fit_sides(areas, ratios, aspect_ratio)
    places = np.stack([keys.signed(Draw.CROP_X), keys.signed(Draw.CROP_Y)], axis=1)
    return Crops(sides, (1 - sides) * places)


def draw_ratios(
    keys: Keys,
    draw: Draw,
    limits: tuple[float, float],
    areas: NDArray[np.float64],
    aspect_ratio: float,
) -> NDArray[np.float64]:
    """Width by height of each rectangle, uniform in its logarithm where the image has room.

    Args:
        keys: Whose numbers to draw, B examples.
        draw: The draw that is for this.
        limits: Lowest and highest ratio.
        areas: float64 `[B]`, parts of the image's area; kept, whatever becomes of the ratio.
        aspect_ratio: Width by height of the image.

    Returns:
        float64 `[B]`.
    """
    narrowest, widest = areas * aspect_ratio, aspect_ratio / areas
    low = np.clip(limits[0], narrowest, widest)
    high = np.clip(limits[1], narrowest, widest)
    return np.asarray(np.exp(keys.between(np.log(low), np.log(high), draw)))


def fit_sides(
    areas: NDArray[np.float64], ratios: NDArray[np.float64], aspect_ratio: float
) -> NDArray[np.float64]:
    """(width, height) of rectangles as parts of the image's, float64 `[B, 2]` in (0, 1]."""
    widths = np.sqrt(areas * ratios / aspect_ratio)
    sides: NDArray[np.float64] = np.stack([widths, areas / widths], axis=1)
    return sides.clip(max=1.0)


def transform(
    images: Tensor,
    angles: NDArray[np.float64],
    scales: NDArray[np.float64],
    shifts: NDArray[np.float64],
    crops: Crops | None = None,
    shears: NDArray[np.float64] | None = None,
    *,
    black_outside: bool = True,
    interpolation: str = "bilinear",
) -> Tensor:
    """Crops, shears, rotates, scales and then shifts each image about its centre.

    All in one resampling.

    Args:
        images: float32 `[B, C, H, W]`.
        angles: float64 `[B]`, radians; above 0 turns counter-clockwise.
        scales: float64 `[B]`; above 1 enlarges.
        shifts: float64 `[B, 2]`, (x, y) as parts of the image's width and height; above 0 moves
            right and down.
        crops: What is enlarged to the image's size before the rest; None is all of it.
        shears: float64 `[B]`, radians; above 0 leans upright lines to the left, along the image's
            rows. None shears nothing.
        black_outside: Whether it is black outside the image; else its edge goes on.
        interpolation: `bilinear` between the pixels, or the `nearest` one.

    Returns:
        float32 `[B, C, H, W]`.
    """
    height, width = images.shape[-2:]
    # The grid asks where each pixel comes from, so this is the inverse: shift back, then turn and
    # scale back. It counts from -1 to 1 on both axes; turning needs both in the same unit.
    cos, sin = np.cos(angles) / scales, np.sin(angles) / scales
    linear = np.array([[cos, -sin * height / width], [sin * width / height, cos]])
    linear = linear.transpose(2, 0, 1)
    if shears is not None:
        linear[:, 0] -= (np.tan(shears) * height / width)[:, None] * linear[:, 1]
    offsets = -linear @ (2 * shifts[:, :, None])
    if crops is not None:
        linear = crops.sides[:, :, None] * linear
        offsets = crops.sides[:, :, None] * offsets + crops.centres[:, :, None]
    return resample(images, linear, offsets, black_outside, interpolation)


def resample(
    images: Tensor,
    linear: NDArray[np.float64],
    offsets: NDArray[np.float64],
    black_outside: bool = True,
    interpolation: str = "bilinear",
) -> Tensor:
    """Fetches every pixel from where an affine map says, on a scale from -1 to 1 over the image.

    Args:
        images: float32 `[B, C, H, W]`.
        linear: float64 `[B, 2, 2]`, from (x, y) of the result to (x, y) of the image.
        offsets: float64 `[B, 2, 1]`, added to that.
        black_outside: Whether it is black outside the image; else its edge goes on.
        interpolation: `bilinear` between the pixels, or the `nearest` one.

    Returns:
        float32 `[B, C, H, W]`.
    """
    matrices = torch.from_numpy(np.concatenate([linear, offsets], axis=2).astype(np.float32))
    grid = affine_grid(matrices, list(images.shape), align_corners=False)
    padding = "zeros" if black_outside else "border"
    return grid_sample(images, grid, mode=interpolation, padding_mode=padding, align_corners=False)


def flip(images: Tensor, options: AugmentationOptions, keys: Keys) -> Tensor:
    """Mirrors some images left and right, and some top and bottom.

    Args:
        images: float32 `[B, C, H, W]`.
        options: `horizontal_flip` and `vertical_flip`.
        keys: Whose numbers to draw, B examples.

    Returns:
        float32 `[B, C, H, W]`.
    """
    for probability, draw, axis in (
        (options.horizontal_flip, Draw.HORIZONTAL_FLIP, -1),
        (options.vertical_flip, Draw.VERTICAL_FLIP, -2),
    ):
        if probability > 0:
            turned = torch.from_numpy(keys.uniform(draw) < probability)
            images = torch.where(turned[:, None, None, None], images.flip(axis), images)
    return images


def rectangle_mask(
    starts: NDArray[np.int64], sides: NDArray[np.int64], height: int, width: int
) -> Tensor:
    """Which pixels lie in a rectangle of each image.

    Args:
        starts: int64 `[B, 2]`, (x, y) of its first pixel.
        sides: int64 `[B, 2]`, its (width, height) in pixels; what sticks out is not counted.
        height: Pixels of the images.
        width: Pixels of the images.

    Returns:
        bool `[B, 1, H, W]`.
    """
    first, past = starts[:, :, None], (starts + sides)[:, :, None]
    columns, rows = (
        (first[:, axis] <= np.arange(size)) & (np.arange(size) < past[:, axis])
        for axis, size in ((0, width), (1, height))
    )
    return torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :])
