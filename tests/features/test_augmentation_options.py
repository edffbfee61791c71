"""The augmentation's settings: what is refused, and what is doubted."""

from __future__ import annotations

from typing import Any

import pytest

from hf_finetune.config import config_from, dump_config, parse_config
from hf_finetune.errors import ConfigError
from hf_finetune.features import AugmentationOptions
from hf_finetune.features.augmentation_options import check_augmentation

KEY = "features.augmentation"


def configure(**settings: Any) -> Any:
    tree = {"data": {"name": "mnist"}, "model": {"name": "cnn"}}
    return config_from({**tree, "features": {"augmentation": settings}})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"crop_area_fraction": [0.9, 0.5]}, "above the second, got [0.9, 0.5]. Write [0.5, 0.9]."),
        ({"erase_aspect_ratio": [3, 0.3]}, "above the second, got [3, 0.3]. Write [0.3, 3]."),
        ({"crop_area_fraction": 0.5}, "must be a list of 2 items, each a number greater than 0"),
        ({"crop_area_fraction": [0, 1]}, "got 0 (a whole number) as item 1."),
        ({"crop_aspect_ratio": [0.01, 1]}, "got 0.01 (a number) as item 1."),
        ({"erase_area_fraction": [0.1, 1.5]}, "got 1.5 (a number) as item 2."),
        ({"horizontal_flip": 1.5}, "of at most 1, got 1.5"),
        ({"vertical_flip": True}, "got true."),
        ({"erase_probability": -0.1}, "of at least 0"),
        ({"pad_crop_pixels": 2.5}, "a whole number of at least 0"),
        ({"pad_crop_fill": "black"}, "must be 'zero' or 'reflect', got 'black'"),
        ({"erase_fill": "black"}, "must be 'mean', 'zero' or 'noise'"),
        ({"brightness_fraction": 2}, "of at most 1"),
        ({"hue_degrees": 200}, "of at most 180"),
        ({"policy": "randaug"}, "Did you mean 'randaugment'?"),
        ({"policy_num_ops": 0}, "of at least 1"),
        ({"policy_magnitude": 30}, "of at most 10"),
        ({"mixup_alpha": -1}, "of at least 0"),
        ({"cutmix_alpha": 1000}, "of at most 100"),
    ],
)
def test_what_is_out_of_range_is_told_with_its_key(settings: dict[str, Any], told: str):
    with pytest.raises(ConfigError) as caught:
        configure(**settings)
    (problem,) = caught.value.problems
    assert f"{KEY}.{next(iter(settings))}: " in problem
    assert told in problem


def test_names_of_other_tools_lead_here():
    with pytest.raises(ConfigError, match=f"Write {KEY}.horizontal_flip"):
        configure(hflip=0.5)
    with pytest.raises(ConfigError, match=f"Did you mean '{KEY}.mixup_alpha'"):
        configure(mixup=0.2)


def test_a_dumped_configuration_says_the_same():
    config = configure(crop_area_fraction=[0.35, 1], mixup_alpha=0.2, policy="randaugment")
    assert config.features.augmentation.crop_area_fraction == (0.35, 1.0)
    assert parse_config(dump_config(config)) == config


def test_nothing_is_doubted_by_default_or_without_reason():
    usual = AugmentationOptions(
        rotation_degrees=90.0,
        crop_area_fraction=(0.5, 1.0),
        crop_aspect_ratio=(0.5, 2.0),
        mixup_alpha=0.2,
        cutmix_alpha=1.0,
        mix_probability=0.5,
        cutmix_fraction=0.3,
        policy="randaugment",
        policy_num_ops=1,
        erase_probability=0.5,
        erase_fill="zero",
    )
    for options in (AugmentationOptions(), usual):
        assert check_augmentation(options, "mnist", 1) == ()
    flips = AugmentationOptions(horizontal_flip=0.5, hue_degrees=10.0)
    assert check_augmentation(flips, "cifar10", 3) == ()
    shears = AugmentationOptions(shear_degrees=9.0, interpolation="nearest")
    assert check_augmentation(shears, "mnist", 1) == ()
    assert check_augmentation(AugmentationOptions(vertical_flip=0.5), "fashion_mnist", 1) == ()


@pytest.mark.parametrize("name", ["mnist", "corrupt_mnist"])
@pytest.mark.parametrize("flip", ["horizontal_flip", "vertical_flip"])
def test_mirrored_digits_are_doubted(name: str, flip: str):
    (warning,) = check_augmentation(AugmentationOptions(**{flip: 0.5}), name, 1)
    assert warning.startswith(f"{KEY}.{flip} mirrors the digits of {name}")


def test_what_does_nothing_is_said():
    (warning,) = check_augmentation(AugmentationOptions(hue_degrees=10.0), "fashion_mnist", 1)
    assert warning == f"{KEY}.hue_degrees does nothing: the images of fashion_mnist are grey. " + (
        "Leave it out"
    )
    for settings, needed in (
        ({"mix_probability": 0.5}, "mixup_alpha or cutmix_alpha"),
        ({"cutmix_fraction": 0.2, "cutmix_alpha": 1.0}, "mixup_alpha"),
        ({"cutmix_fraction": 0.2, "mixup_alpha": 1.0}, "cutmix_alpha"),
        ({"erase_fill": "noise"}, "erase_probability"),
        ({"policy_magnitude": 9.0}, "policy"),
        ({"pad_crop_fill": "reflect"}, "pad_crop_pixels"),
        ({"crop_aspect_ratio": (1.0, 1.0)}, "crop_area_fraction"),
    ):
        (warning,) = check_augmentation(AugmentationOptions(**settings), "cifar10", 3)
        name = next(iter(settings))
        assert warning == f"{KEY}.{name} does nothing without {needed}"
