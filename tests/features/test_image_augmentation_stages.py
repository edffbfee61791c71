"""What all stages of the augmentation promise: keys alone decide, and none disturbs another."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.errors import DataError
from hf_finetune.features import AugmentationOptions, augmentation
from hf_finetune.features.augmentation import augment, changes_images
from hf_finetune.features.draws import Draw

STAGES: dict[str, dict[str, Any]] = {
    "pad and crop": {"pad_crop_pixels": 3},
    "pad and crop, mirrored": {"pad_crop_pixels": 3, "pad_crop_fill": "reflect"},
    "crop": {"crop_area_fraction": (0.35, 1.0)},
    "shear": {"shear_degrees": 20.0},
    "rotation": {"rotation_degrees": 30.0},
    "scale": {"scale_ratio": 1.3},
    "shift": {"shift_fraction": 0.2},
    "horizontal flip": {"horizontal_flip": 0.5},
    "vertical flip": {"vertical_flip": 0.5},
    "policy": {"policy": "randaugment", "policy_num_ops": 3},
    "brightness": {"brightness_fraction": 0.4},
    "contrast": {"contrast_fraction": 0.4},
    "saturation": {"saturation_fraction": 0.4},
    "hue": {"hue_degrees": 40.0},
    "erase, mean": {"erase_probability": 0.5},
    "erase, noise": {"erase_probability": 0.5, "erase_fill": "noise"},
}
EVERYTHING = {key: value for settings in STAGES.values() for key, value in settings.items()}
CASES = {**STAGES, "everything": EVERYTHING}


def pictures(count: int, *shape: int, whole: bool) -> torch.Tensor:
    images = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return (255 * images).round() if whole else images


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("shape", "whole"), [((1, 28, 28), False), ((3, 21, 17), True)])
def test_an_example_does_not_depend_on_its_batch(case: str, shape: tuple[int, ...], whole: bool):
    options = AugmentationOptions(**CASES[case])
    images, epochs, indices = pictures(67, *shape, whole=whole), np.arange(67) % 4, np.arange(67)
    before = images.clone()
    together = augment(images, options, 5, epochs, indices, whole_levels=whole)
    assert torch.equal(images, before)
    if shape[0] == 3 or case not in ("saturation", "hue"):  # which grey images don't have
        assert not torch.equal(together, images)
    order = np.random.default_rng(0).permutation(67)
    shuffled = augment(images[order], options, 5, epochs[order], indices[order], whole_levels=whole)
    assert torch.equal(shuffled, together[order])
    for part in (slice(0, 1), slice(3, 5), slice(10, 43), slice(66, 67)):
        keys = epochs[part], indices[part]
        alone = augment(images[part], options, 5, *keys, whole_levels=whole)
        assert torch.equal(alone, together[part])


def test_large_images_go_in_blocks_that_do_not_show(monkeypatch: pytest.MonkeyPatch):
    images = pictures(11, 3, 40, 30, whole=True)
    keys = np.zeros(11, np.int64), np.arange(11)
    options = AugmentationOptions(**EVERYTHING)
    whole = augment(images, options, 0, *keys, whole_levels=True)
    monkeypatch.setattr(augmentation, "_BLOCK_PIXELS", 4 * 3600 + 7)
    assert torch.equal(augment(images, options, 0, *keys, whole_levels=True), whole)


@pytest.mark.parametrize("case", CASES)
def test_images_of_8_bits_stay_so(case: str):
    options = AugmentationOptions(**CASES[case])
    images, keys = pictures(40, 3, 20, 24, whole=True), (np.ones(40, np.int64), np.arange(40))
    changed = augment(images, options, 1, *keys, whole_levels=True)
    assert torch.equal(changed, changed.round())
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 255


@pytest.mark.parametrize("case", CASES)
def test_float_images_look_like_those_of_8_bits(case: str):
    """The same picture on either scale comes out the same but for the rounding of a few stages."""
    options = AugmentationOptions(**{**CASES[case], "policy_num_ops": 1})
    images, keys = pictures(40, 3, 20, 24, whole=True), (np.ones(40, np.int64), np.arange(40))
    whole = augment(images, options, 1, *keys, whole_levels=True)
    fine = augment(images / 255, options, 1, *keys)
    assert float(fine.min()) >= 0
    assert float(fine.max()) <= 1
    assert float((255 * fine - whole).abs().median()) <= 1.0


@pytest.mark.parametrize("case", STAGES)
def test_seed_epoch_and_index_each_change_every_stage(case: str):
    options = AugmentationOptions(**STAGES[case])
    image = pictures(1, 3, 16, 16, whole=True).expand(32, -1, -1, -1)
    many, none = np.arange(32), np.zeros(32, np.int64)

    def differ(results: torch.Tensor) -> bool:
        return len({image.numpy().tobytes() for image in results}) > 1

    def see(images: torch.Tensor, seed: int, *keys: np.ndarray) -> torch.Tensor:
        return augment(images, options, seed, *keys, whole_levels=True)

    assert differ(see(image, 0, none, many))
    assert differ(see(image, 0, many, none))
    assert differ(torch.cat([see(image[:1], seed, none[:1], none[:1]) for seed in range(32)]))


def test_every_number_is_for_one_thing(monkeypatch: pytest.MonkeyPatch):
    """Switching a stage on leaves the draws of all others as they were, mixing included."""
    from hf_finetune.features import draws
    from hf_finetune.features.draws import Keys
    from hf_finetune.features.mixing import Partners, mix

    drawn: list[int] = []
    uniform = draws.uniform

    def noting(seed: int, epochs: Any, indices: Any, draw: int, numbers: Any = None) -> Any:
        drawn.append(draw)
        return uniform(seed, epochs, indices, draw, numbers)

    monkeypatch.setattr(draws, "uniform", noting)
    images, keys = pictures(4, 3, 9, 9, whole=True), (np.zeros(4, np.int64), np.arange(4))
    noise = {"erase_probability": 1.0, "erase_fill": "noise"}
    options = AugmentationOptions(
        **{**EVERYTHING, **noise, "mixup_alpha": 1.0, "cutmix_alpha": 1.0}
    )
    augment(images, options, 0, *keys, whole_levels=True)
    Partners(options, 0, 10)(*keys)
    mix(images.repeat(2, 1, 1, 1), torch.zeros(8).long(), np.arange(4), options, Keys(0, *keys))
    policy = [Draw.POLICY + number for number in range(6)]
    others = [draw for draw in Draw if draw < Draw.POLICY]  # those of sound come after it
    assert sorted(drawn) == sorted([*others, *policy])


def test_numbers_are_kept_for_ever():
    """A run that is repeated after an update sees the same images: names and numbers stay."""
    listed = ",".join(f"{draw.name}={draw.value}" for draw in Draw if draw < 29 or draw == 100)
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "e8a3cf0b32e4065a"


def test_rotation_shift_and_scale_are_what_they_were():
    """Pixels that the first version of the augmentation gave."""
    images = pictures(3, 1, 9, 9, whole=True)
    options = AugmentationOptions(rotation_degrees=30.0, shift_fraction=0.2, scale_ratio=1.5)
    result = augment(images, options, 5, np.array([0, 1, 2]), np.array([1000, 1001, 7]))
    expected = torch.tensor(
        [
            [205.3136, 116.7194, 92.1193, 111.3169, 185.1931],
            [148.0114, 162.6465, 120.2058, 112.0589, 86.6309],
            [177.5635, 106.1053, 161.1693, 142.5374, 97.0361],
        ]
    )
    torch.testing.assert_close(result[:, 0, 4, 2:7], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_each_setting_counts_as_a_change(case: str):
    assert changes_images(AugmentationOptions(**CASES[case]))


def test_an_image_too_small_to_be_mirrored_is_told():
    images = pictures(2, 1, 4, 9, whole=True)
    keys = np.zeros(2, np.int64), np.arange(2)
    options = AugmentationOptions(pad_crop_pixels=4, pad_crop_fill="reflect")
    with pytest.raises(DataError, match=r"pad_crop_pixels: 4 pixels .* has 4 x 9. Allowed: fewer"):
        augment(images, options, 0, *keys)
    black = AugmentationOptions(pad_crop_pixels=4)
    assert augment(images, black, 0, *keys).shape == images.shape


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (3, 2, 2)])
def test_tiny_images_survive_everything(shape: tuple[int, ...]):
    options = AugmentationOptions(**{**EVERYTHING, "pad_crop_fill": "zero"})
    images, keys = pictures(60, *shape, whole=True), (np.zeros(60, np.int64), np.arange(60))
    changed = augment(images, options, 0, *keys, whole_levels=True)
    assert changed.shape == images.shape
    assert bool(changed.isfinite().all())
