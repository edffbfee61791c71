"""The image collator: numbers, channels, sizes, errors, and what training adds."""

from __future__ import annotations

import pickle
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_finetune.data import image_files
from hf_finetune.errors import DataError, ModelError
from hf_finetune.features import AugmentationOptions, FeatureOptions, collator_for

PLAIN = FeatureOptions()
AUGMENTED = FeatureOptions(
    augmentation=AugmentationOptions(rotation_degrees=20.0, shift_fraction=0.1, scale_ratio=1.2)
)


def settings(**changes):
    grey = {
        "do_resize": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.25],
        "image_std": [0.5],
    }
    return SimpleNamespace(**{**grey, **changes})


def colour(**changes):
    return settings(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.4, 0.2], **changes)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def raw(images, epoch=0, first=0):
    count = len(images)
    return {
        "image": images,
        "label": np.arange(count) % 10,
        "epoch": np.full(count, epoch),
        "index": np.arange(first, first + count),
    }


def collate(processor, raw_batch, options=PLAIN, seed=0, training=False):
    return collator_for(processor, options, seed, training)(raw_batch)


def pixel_values(processor, images, **how):
    return collate(processor, raw(images), **how)["pixel_values"]


def test_a_batch_has_pixels_labels_and_index():
    images = pictures(5, 28, 28)
    batch = collate(settings(), raw(images, first=40))
    assert set(batch) == {"pixel_values", "labels", "index"}
    assert batch["pixel_values"].dtype == torch.float32
    expected = (images[:, None] / 255 - 0.25) / 0.5
    np.testing.assert_allclose(batch["pixel_values"].numpy(), expected, atol=1e-6)
    assert batch["labels"].dtype == batch["index"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1, 2, 3, 4]
    assert batch["index"].tolist() == [40, 41, 42, 43, 44]


def test_loose_files_have_no_label_and_no_index():
    assert set(collate(settings(), {"image": pictures(2, 8, 8)})) == {"pixel_values"}


@pytest.mark.parametrize("do_rescale", [True, False])
def test_floats_are_on_the_scale_that_the_processor_leaves(do_rescale):
    images = pictures(3, 8, 8)
    floats = (images / 255).astype(np.float32)
    processor = settings(do_rescale=do_rescale, rescale_factor=1 / 255)
    values = pixel_values(processor, floats)
    np.testing.assert_allclose(values.numpy()[:, 0], (floats - 0.25) / 0.5, atol=1e-6)
    levels = pixel_values(processor, images).numpy()[:, 0]
    expected = (images / (255 if do_rescale else 1) - 0.25) / 0.5
    np.testing.assert_allclose(levels, expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_done_that_is_turned_off():
    processor = SimpleNamespace(do_resize=False, do_rescale=False, do_normalize=False)
    for images in (pictures(2, 6, 5), pictures(2, 6, 5, 3)):
        values = pixel_values(processor, images).numpy()
        assert np.array_equal(values, images.reshape(2, 6, 5, -1).transpose(0, 3, 1, 2))
    processor = settings(image_mean=None, image_std=None, do_normalize=False, num_channels=3)
    assert pixel_values(processor, pictures(2, 6, 5)).shape == (2, 3, 6, 5)


@pytest.mark.parametrize("options", [PLAIN, AUGMENTED])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_raw_batch_stays_as_it_is(options, dtype):
    images = pictures(4, 8, 8).astype(dtype)
    before = images.copy()
    raw_batch = raw(images)
    collate(settings(), raw_batch, options, training=True)
    assert np.array_equal(images, before)
    assert set(raw_batch) == {"image", "label", "epoch", "index"}
    images.flags.writeable = False  # as views of Arrow tables are; torch would warn
    collate(settings(), raw(images), options, training=True)


def test_tensors_are_taken_like_arrays():
    images = pictures(4, 8, 8, 3)
    raw_batch = {key: torch.from_numpy(value) for key, value in raw(images).items()}
    ours = collate(colour(), raw_batch, AUGMENTED, training=True)
    theirs = collate(colour(), raw(images), AUGMENTED, training=True)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_it_survives_pickling():
    collator = collator_for(colour(), AUGMENTED, 3, training=True)
    raw_batch = raw(pictures(4, 9, 9, 3))
    copy = pickle.loads(pickle.dumps(collator))
    assert torch.equal(copy(raw_batch)["pixel_values"], collator(raw_batch)["pixel_values"])


# Channels


def test_grey_is_repeated_for_three_channels():
    images = pictures(3, 7, 9)
    values = pixel_values(colour(), images)
    repeated = np.repeat(images[..., None], 3, axis=-1)
    assert values.shape == (3, 3, 7, 9)
    assert torch.equal(values, pixel_values(colour(), repeated))
    same = settings(num_channels=3)  # one mean for all channels
    assert torch.equal(pixel_values(same, images), pixel_values(same, repeated))


def test_one_number_serves_all_channels():
    images = pictures(2, 5, 5, 3)
    one, three = settings(num_channels=3), settings(image_mean=[0.25] * 3, image_std=[0.5] * 3)
    mixed = settings(image_mean=[0.25] * 3, image_std=0.5)
    assert torch.equal(pixel_values(one, images), pixel_values(three, images))
    assert torch.equal(pixel_values(mixed, images), pixel_values(three, images))
    assert torch.equal(
        pixel_values(settings(image_mean=[0.1, 0.2, 0.3]), images),
        pixel_values(settings(image_mean=[0.1, 0.2, 0.3], image_std=[0.5] * 3), images),
    )


def test_colour_becomes_pillows_grey():
    images = pictures(50, 40, 40, 3)
    grey = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert torch.equal(pixel_values(settings(), images), pixel_values(settings(), grey))
    floats = pixel_values(settings(), (images / 255).astype(np.float32))
    assert (floats - pixel_values(settings(), grey)).abs().max() < 0.51 / 255 / 0.5


def test_channels_come_first_and_keep_their_order():
    image = np.zeros((1, 2, 3, 3), dtype=np.uint8)
    image[0, 1, 2] = [51, 102, 204]
    values = pixel_values(settings(image_mean=[0] * 3, image_std=[1] * 3), image)
    assert values[0, :, 1, 2].tolist() == pytest.approx([0.2, 0.4, 0.8])
    assert values.sum() == pytest.approx(1.4)


# Sizes


@pytest.mark.parametrize("resample", [0, 2, 3, None])
def test_it_resizes_as_the_processor_asks(resample):
    images = pictures(2, 20, 30)
    processor = settings(
        do_resize=True, size={"height": 24, "width": 12}, resample=resample, do_normalize=False
    )
    values = pixel_values(processor, images)
    filter_ = 2 if resample is None else resample
    resized = [np.asarray(Image.fromarray(image).resize((12, 24), filter_)) for image in images]
    np.testing.assert_allclose(values[:, 0].numpy() * 255, np.stack(resized), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 7), (9, 12), (4, 12), (9, 7)])
def test_it_cuts_the_middle_and_pads_with_black(height, width):
    from transformers.image_transforms import center_crop

    images = pictures(1, 6, 9)
    processor = settings(
        do_center_crop=True, crop_size={"height": height, "width": width}, do_normalize=False
    )
    expected = center_crop(images, (height, width), input_data_format="channels_first")
    values = pixel_values(processor, images)
    np.testing.assert_allclose(values[:, 0].numpy() * 255, expected, atol=1e-4)


# Lists of unequal shapes


def test_unequal_images_are_put_back_in_order():
    shapes = [(20, 30), (28, 28, 3), (20, 30), (9, 9), (28, 28, 3), (20, 30)]
    images = [pictures(*shape, seed=n) for n, shape in enumerate(shapes)]
    images[5] = (images[5] / 255).astype(np.float32)
    processor = colour(do_resize=True, size={"height": 16, "width": 16}, resample=2)
    for options in (PLAIN, AUGMENTED):
        together = collate(processor, raw(images, first=7), options, training=True)
        assert together["index"].tolist() == [7, 8, 9, 10, 11, 12]
        for n, image in enumerate(images):
            alone = collate(processor, raw([image], first=7 + n), options, training=True)
            assert torch.equal(alone["pixel_values"][0], together["pixel_values"][n])


def test_large_files_are_read_in_portions(tmp_path, monkeypatch):
    files = []
    for number, shape in enumerate(
        [(20, 30), (28, 28, 3), (20, 30), (20, 30), (28, 28, 3), (9, 9)]
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pictures(*shape, seed=number)).save(path)
        files.append({"path": str(path), "color": "as_is", "background": "white"})
    processor = colour(do_resize=True, size={"height": 16, "width": 16}, resample=2)
    together = collate(processor, raw(files), AUGMENTED, training=True)
    monkeypatch.setattr(image_files, "_PORTION_BYTES", 1)
    read = []
    one_by_one = image_files.read_images
    monkeypatch.setattr(
        image_files, "read_images", lambda part, _: read.append(len(part)) or one_by_one(part, 1)
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    in_portions = collate(processor, raw(files), AUGMENTED, training=True)
    assert read == [2, 2, 2]
    assert torch.equal(together["pixel_values"], in_portions["pixel_values"])
    unequal = settings(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.4, 0.2])
    with pytest.raises(DataError, match=r"1\.png: .*28, 28.*20, 30.* for .*0\.png"):
        collate(unequal, raw(files))
    files[4]["path"] += "x"
    with pytest.raises(DataError, match=r"4\.pngx: there is no such file"):
        collate(processor, raw(files))


def test_a_list_of_equal_images_is_one_batch():
    images = pictures(4, 8, 8)
    assert torch.equal(pixel_values(settings(), list(images)), pixel_values(settings(), images))


# Augmentation


@pytest.mark.parametrize("training", [True, False])
def test_without_augmentation_training_sees_the_very_bits(training):
    images = pictures(6, 28, 28)
    assert torch.equal(
        pixel_values(settings(), images, training=training),
        torch.from_numpy(images)[:, None].float().mul(1 / 127.5).add(-0.5),
    )


def test_evaluation_is_never_augmented():
    images = pictures(6, 28, 28)
    plain = pixel_values(settings(), images)
    assert torch.equal(pixel_values(settings(), images, options=AUGMENTED), plain)
    changed = pixel_values(settings(), images, options=AUGMENTED, training=True)
    assert (changed != plain).flatten(1).any(1).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_augmented_example_depends_on_its_keys_alone(dtype):
    images = pictures(40, 28, 28)
    if dtype is np.float32:
        images = images.astype(np.float32) / np.float32(255)
    processor = settings(
        do_resize=True, size={"height": 40, "width": 40}, resample=3, num_channels=3
    )
    collator = collator_for(processor, AUGMENTED, 0, training=True)
    raw_batch = raw(images)
    together = collator(raw_batch)["pixel_values"]
    order = np.random.default_rng(1).permutation(40)[:17]
    part = {key: value[order] for key, value in raw_batch.items()}
    assert torch.equal(collator(part)["pixel_values"], together[order])
    later = collator({**raw_batch, "epoch": raw_batch["epoch"] + 1})["pixel_values"]
    assert (later != together).flatten(1).any(1).all()
    other = collator_for(processor, AUGMENTED, 1, training=True)(raw_batch)["pixel_values"]
    assert (other != together).flatten(1).any(1).all()


def test_augmented_levels_stay_whole():
    values = pixel_values(
        settings(do_rescale=False, do_normalize=False, num_channels=1),
        pictures(6, 28, 28),
        options=AUGMENTED,
        training=True,
    )
    assert torch.equal(values, values.round())
    assert values.min() >= 0
    assert values.max() <= 255


def test_it_augments_before_it_resizes():
    images = np.zeros((1, 4, 4), dtype=np.uint8)
    images[:, :, :2] = 255
    processor = settings(do_resize=True, size={"height": 4, "width": 400}, resample=0)
    options = FeatureOptions(augmentation=AugmentationOptions(shift_fraction=0.25))
    values = pixel_values(processor, images, options=options, training=True)
    # At the source resolution a shifted edge has at most two grey columns: few levels in all.
    assert len(values[0, 0, 1].unique()) <= 4


# What can't be done


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pictures(3, 8, 8, 4), r"index 0, 1, 2: got uint8 of shape \(8, 8, 4\)"),
        (pictures(3, 8), r"index 0, 1, 2: got uint8 of shape \(8,\)"),
        (pictures(2, 1, 8, 8, 3), r"index 0, 1: got uint8 of shape \(1, 8, 8, 3\)"),
        (pictures(2, 0, 8), r"got uint8 of shape \(0, 8\)"),
        (np.zeros((7, 8, 8)), r"index 0, 1, 2, 3, 4, …: got float64 of shape \(8, 8\)"),
        ([pictures(8, 8), pictures(8, 8, 2)], r"image of index 1: got uint8 of shape \(8, 8, 2\)"),
    ],
)
def test_unknown_images_are_named(images, message):
    with pytest.raises(DataError, match=message + ".*Allowed.*Convert"):
        collate(settings(), raw(images))


def test_the_index_is_the_rows_own():
    with pytest.raises(DataError, match="image of index 90, 91: got"):
        collate(settings(), raw(pictures(2, 8, 8, 2), first=90))
    with pytest.raises(DataError, match="image of index 0, 1: got"):
        collate(settings(), {"image": pictures(2, 8, 8, 2)})


def test_images_that_stay_unequal_are_named():
    images = [pictures(8, 8), pictures(8, 9), pictures(8, 9)]
    with pytest.raises(DataError, match=r"image of index 1, 2: .*\[1, 8, 9\].*\[1, 8, 8\].*size"):
        collate(settings(), raw(images))


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (settings(do_resize=True, size={"longest_edge": 9}), "processor.size: got.*longest_edge"),
        (settings(do_resize=True, size=None), "processor.size: got {}"),
        (settings(do_center_crop=True, crop_size={"height": 9}), "processor.crop_size: got"),
        (settings(resample=6), r"unknown filter 6. Allowed: 0 \(nearest\).*2 \(bilinear\)"),
        (settings(image_mean=[0.5] * 4, image_std=[0.5] * 4), "4 channels. Allowed: 1 or 3"),
        (settings(num_channels=3, image_mean=[0.5] * 2), r"normalise by \[0.5, 0.5\] and.* of 3;"),
        (settings(image_mean=[0.5] * 3, image_std=[0.5] * 2), r"and \[0.5, 0.5\]. Allowed"),
        (settings(image_std=[float("nan")]), "normalise by .*nan"),
        (settings(image_mean=None), "normalise by .*nan"),
        (settings(image_std=[0.0]), r"normalise by .*\[0.0\].*above 0"),
    ],
)
def test_unknown_settings_are_refused_at_once(processor, message):
    with pytest.raises(ModelError, match=message):
        collator_for(processor, PLAIN, 0, training=False)


def test_the_door_imports_no_torch():
    code = "import sys, hf_finetune.features; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
