"""What may be switched on of the augmentation of training images, and which of it is doubtful.

Part of the configuration's `features` section: plain data, read by `augmentation` and `mixing`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from hf_finetune.options import Section

Probability = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, le=1)]
Ratio = Annotated[float, Field(ge=0.1, le=10)]
PartRange = Annotated[tuple[Part, Part], Field(strict=False)]
RatioRange = Annotated[tuple[Ratio, Ratio], Field(strict=False)]

_DIGITS = ("mnist", "corrupt_mnist")
# What says how something is done, and what must be on for it to say anything.
_NEEDS = (
    ("pad_crop_fill", ("pad_crop_pixels",)),
    ("crop_aspect_ratio", ("crop_area_fraction",)),
    (
        "interpolation",
        (
            "crop_area_fraction",
            "shear_degrees",
            "rotation_degrees",
            "scale_ratio",
            "shift_fraction",
        ),
    ),
    ("policy_num_ops", ("policy",)),
    ("policy_magnitude", ("policy",)),
    ("erase_area_fraction", ("erase_probability",)),
    ("erase_aspect_ratio", ("erase_probability",)),
    ("erase_fill", ("erase_probability",)),
    ("mix_probability", ("mixup_alpha", "cutmix_alpha")),
    ("cutmix_fraction", ("mixup_alpha",)),
    ("cutmix_fraction", ("cutmix_alpha",)),
)


class AugmentationOptions(Section):
    """Random changes to training images, drawn from (seed, epoch, index); nothing by default."""

    pad_crop_pixels: Annotated[int, Field(ge=0, le=256)] = 0
    """Put this many pixels around the image, then cut its size out again at a random place."""
    pad_crop_fill: Literal["zero", "reflect"] = "zero"
    """What `pad_crop_pixels` puts around the image: black, or the image mirrored at its edge."""
    crop_area_fraction: PartRange = (1.0, 1.0)
    """Cut out a rectangle of a uniform part, from the first number to the second, of the image's
    area, and enlarge it to the image's size: [0.35, 1] for example."""
    crop_aspect_ratio: RatioRange = (3 / 4, 4 / 3)
    """Width by height of that rectangle, uniform in its logarithm; it gives way where the image
    has no room for it."""
    shear_degrees: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Slant upright lines to either side by a uniform angle within ± this, as handwriting does."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotate by a uniform angle within ± this."""
    shift_fraction: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Shift each axis by a uniform part, within ± this, of the image's side."""
    scale_ratio: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Scale by a factor between 1 / this and this, uniform in its logarithm."""
    interpolation: Literal["bilinear", "nearest"] = "bilinear"
    """How crop, shear, rotation, shift and scale fetch a pixel: mixed from its four neighbours, or
    as the nearest one is, which fits pictures that were turned in that way before."""
    horizontal_flip: Probability = 0.0
    """Mirror left and right, with this probability. It changes what a digit or a letter is."""
    vertical_flip: Probability = 0.0
    """Mirror top and bottom, with this probability."""
    policy: Literal["none", "randaugment"] = "none"
    """`randaugment`: some of its 14 changes of place and tone, drawn anew for each image."""
    policy_num_ops: Annotated[int, Field(ge=1, le=8)] = 2
    """How many changes the policy makes to an image, one after the other."""
    policy_magnitude: Annotated[float, Field(ge=0, le=10)] = 5.0
    """How strong the policy's changes are: 10 rotates by 30 degrees."""
    brightness_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiply pixels by a uniform factor within 1 ± this."""
    contrast_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiply the distance from the image's mean grey by a uniform factor within 1 ± this."""
    saturation_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiply the distance from each pixel's grey by a uniform factor within 1 ± this."""
    hue_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Turn the circle of colours by a uniform angle within ± this."""
    erase_probability: Probability = 0.0
    """Paint over a random rectangle, with this probability."""
    erase_area_fraction: PartRange = (0.02, 0.33)
    """The rectangle's part of the image's area, uniform from the first number to the second."""
    erase_aspect_ratio: RatioRange = (0.3, 1 / 0.3)
    """The rectangle's width by its height, uniform in its logarithm."""
    erase_fill: Literal["mean", "zero", "noise"] = "mean"
    """Paint with the image's own mean, with black, or with random pixels."""
    mixup_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Blend an image and its label with another's of the training split, in a ratio drawn from
    Beta(this, this): 0.2 seldom blends much, 1 blends evenly. 0 is off."""
    cutmix_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Paste a rectangle of another image over it, and mix the labels by area: that of a ratio drawn
    from Beta(this, this). 0 is off."""
    mix_probability: Probability = 1.0
    """Part of the examples that are mixed."""
    cutmix_fraction: Probability = 0.5
    """Part of the mixed examples that cutmix takes, where mixup is on too."""

    @field_validator(
        "crop_area_fraction", "crop_aspect_ratio", "erase_area_fraction", "erase_aspect_ratio"
    )
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError(
                f"the first number must not be above the second, got [{value[0]:g}, "
                f"{value[1]:g}]. Write [{value[1]:g}, {value[0]:g}]"
            )
        return value

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with others."""
        return self.mix_probability > 0 and max(self.mixup_alpha, self.cutmix_alpha) > 0


def check_augmentation(
    options: AugmentationOptions, data_name: str, num_channels: int
) -> tuple[str, ...]:
    """What is allowed but probably not meant, in words for the plan and the run's record.

    Args:
        options: The configuration's `features.augmentation` section.
        data_name: Name of the data set.
        num_channels: 1 (grey) or 3 of its images.
    """
    changed = options.model_dump(exclude_defaults=True)
    key = "features.augmentation"
    flips = [name for name in ("horizontal_flip", "vertical_flip") if getattr(options, name) > 0]
    warnings = [
        f"{key}.{name} mirrors the digits of {data_name}, which changes what they are: a mirrored "
        f"digit is another sign, or none. Leave it out"
        for name in flips
        if data_name in _DIGITS
    ]
    colors = [name for name in ("saturation_fraction", "hue_degrees") if name in changed]
    warnings += [
        f"{key}.{name} does nothing: the images of {data_name} are grey. Leave it out"
        for name in colors
        if num_channels == 1
    ]
    warnings += [
        f"{key}.{name} does nothing without {' or '.join(needed)}"
        for name, needed in _NEEDS
        if name in changed and not any(other in changed for other in needed)
    ]
    return tuple(warnings)
