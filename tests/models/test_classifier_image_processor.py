"""The image processor: any picture becomes what the network takes, and equals Pillow's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from hf_finetune.models.auto_classes import register
from hf_finetune.models.image_processing import ClassifierImageProcessor

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
MODES = [
    *(
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "LA",
        "La",
        "RGBa",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "PA",
        "RGBX",
    ),
    *("I", "F", "I;16", "I;16L", "I;16B", "I;16N"),
]


def plain(**settings: object) -> ClassifierImageProcessor:
    """Neither resizes nor normalises: answers with light from 0 to 1."""
    return ClassifierImageProcessor(do_resize=False, do_normalize=False, **settings)


def light(processor: ClassifierImageProcessor, image: object, **settings: object) -> np.ndarray:
    return processor(image, return_tensors="np", **settings)["pixel_values"][0]


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
@pytest.mark.parametrize("size", [(20, 30), (28, 28), (7, 45)])
def test_colour_equals_transformers_own_processor(size, resample):
    settings = {
        "size": {"height": size[0], "width": size[1]},
        "resample": resample,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
    }
    ours = ClassifierImageProcessor(num_channels=3, **settings)(COLOUR, return_tensors="pt")
    theirs = transformers.ViTImageProcessorPil(**settings)(COLOUR, return_tensors="pt")
    assert ours["pixel_values"].dtype == torch.float32
    assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_grey_equals_pillow_and_the_formula():
    processor = ClassifierImageProcessor(
        size={"height": 28, "width": 28}, image_mean=[0.25], image_std=[0.125]
    )
    resized = Image.fromarray(GREY).resize((28, 28), Image.Resampling.BILINEAR)
    expected = (np.asarray(resized) / np.float32(255) - 0.25) / 0.125
    np.testing.assert_allclose(light(processor, GREY), expected[None], rtol=0, atol=1e-6)


def test_a_picture_of_the_right_size_is_not_touched():
    processor = ClassifierImageProcessor(size={"height": 20, "width": 30}, do_normalize=False)
    np.testing.assert_allclose(light(processor, GREY)[0] * 255, GREY, atol=1e-4)
    floats = RNG.random((20, 30), dtype=np.float32)
    assert np.array_equal(light(processor, floats)[0], floats)  # no rounding to 256 levels


def test_floats_are_resized_without_rounding():
    processor = ClassifierImageProcessor(size={"height": 10, "width": 15}, do_normalize=False)
    ramp = np.linspace(0, 0.01, 600, dtype=np.float32).reshape(20, 30)
    assert len(np.unique(light(processor, ramp))) > 100
    exact = np.asarray(Image.fromarray(ramp).resize((15, 10), Image.Resampling.BILINEAR))
    assert np.array_equal(light(processor, ramp)[0], exact)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_pillow_is_taken(mode, num_channels):
    image = Image.new(mode, (9, 7))
    processor = ClassifierImageProcessor(num_channels=num_channels)
    values = processor([image, image], return_tensors="pt")["pixel_values"]
    assert values.shape == (2, num_channels, 28, 28)
    assert values.isfinite().all()


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "CMYK", "RGBA", "RGBX", "I", "LA"])
def test_the_same_grey_in_every_mode(mode):
    image = Image.fromarray(GREY).convert("RGB" if mode == "CMYK" else "L").convert(mode)
    for num_channels in (1, 3):
        values = light(plain(num_channels=num_channels), image)
        expected = np.broadcast_to(GREY / 255, values.shape)
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_colour_becomes_grey_as_pillow_does():
    expected = np.asarray(Image.fromarray(COLOUR).convert("L")) / 255
    np.testing.assert_allclose(light(plain(), COLOUR)[0], expected, atol=1e-6)
    floats = (COLOUR / 255).astype(np.float32)
    np.testing.assert_allclose(light(plain(), floats)[0], expected, atol=0.6 / 255)


def test_transparency_lies_on_black():
    pixels = np.array([[[200, 100, 50, 0], [200, 100, 50, 255], [200, 100, 50, 51]]], np.uint8)
    expected = np.array([[[0, 0, 0], [200, 100, 50], [40, 20, 10]]]) / 255
    for image in (pixels, Image.fromarray(pixels)):
        values = light(plain(num_channels=3), image)
        np.testing.assert_allclose(values, np.moveaxis(expected, -1, 0), atol=1e-6)
    floats = (pixels / 255).astype(np.float32)
    values = light(plain(num_channels=3), floats)
    np.testing.assert_allclose(values, np.moveaxis(expected, -1, 0), atol=1e-6)

    grey_with_alpha = np.array([[[200, 0], [200, 255], [200, 51]]], np.uint8)
    for image in (grey_with_alpha, Image.fromarray(grey_with_alpha, "LA")):
        np.testing.assert_allclose(light(plain(), image) * 255, [[[0, 200, 40]]], atol=1e-4)

    one_grey_is_clear = Image.fromarray(np.array([[200, 100]], np.uint8))
    one_grey_is_clear.info["transparency"] = 200
    np.testing.assert_allclose(light(plain(), one_grey_is_clear) * 255, [[[0, 100]]], atol=1e-4)

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 255, 255, 100, 100, 100])
    palette.putdata([0, 1])
    palette.info["transparency"] = 0
    np.testing.assert_allclose(light(plain(), palette) * 255, [[[0, 100]]], atol=1e-4)


def test_sixteen_bits_are_scaled_to_eight():
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    expected = np.array([[0, 0, 1, 1, 128, 255]]) / 255
    big_endian = Image.frombytes("I;16B", (6, 1), deep.astype(">u2").tobytes())
    for image in (deep, Image.fromarray(deep), big_endian):
        np.testing.assert_allclose(light(plain(), image)[0], expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int32, np.float64, np.float16, bool])
def test_numbers_mean_what_their_type_says(dtype):
    top = 255 if np.issubdtype(dtype, np.integer) else 1
    values = light(plain(), np.array([[0, top]], dtype))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, [[[0, 1]]], atol=1e-6)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[0.0, 1.5]]),
        np.array([[-0.1, 1.0]]),
        np.array([[np.nan, 1.0]]),
        np.array([[0, 256]]),
        np.array([[-1, 0]]),
        Image.fromarray(np.array([[0, 300]], np.int32)),
    ],
)
def test_values_out_of_range_are_refused(array):
    with pytest.raises(ValueError, match=r"values must lie within 0…"):
        plain()(array)


@pytest.mark.parametrize("shape", [(3,), (5, 6, 7), (2, 5, 6, 9), (0, 4, 4), (0, 4)])
def test_what_is_no_picture_is_refused(shape):
    with pytest.raises(ValueError, match="image: got an array of shape"):
        plain()(np.zeros(shape, np.uint8))


def test_lists_batches_tensors_and_either_channel_order():
    three = plain(num_channels=3)
    expected = light(three, COLOUR)
    first = np.moveaxis(COLOUR, -1, 0)
    images = [COLOUR, first, torch.from_numpy(first.copy()), Image.fromarray(COLOUR)]
    for image in images:
        assert np.array_equal(light(three, image), expected)
    assert three(images, return_tensors="pt")["pixel_values"].shape == (4, 3, 20, 30)
    batch = three(np.stack([COLOUR, COLOUR]), return_tensors="pt")["pixel_values"]
    assert batch.shape == (2, 3, 20, 30)
    grey = plain()([GREY, GREY[..., None], Image.fromarray(GREY)], return_tensors="np")
    assert np.array_equal(grey["pixel_values"][0], grey["pixel_values"][1])
    assert np.array_equal(grey["pixel_values"][0], grey["pixel_values"][2])
    tiny = RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8)  # both ends could be channels
    assert light(three, tiny).shape == (3, 3, 4)
    assert light(three, tiny, input_data_format="channels_first").shape == (3, 4, 3)


def test_settings_of_one_call_go_before_those_of_the_processor():
    processor = plain()
    assert light(processor, COLOUR).shape == (1, 20, 30)
    assert light(processor, COLOUR, num_channels=3).shape == (3, 20, 30)
    assert light(processor, COLOUR).shape == (1, 20, 30)
    assert light(processor, GREY, do_rescale=False).max() == GREY.max()


def test_pictures_are_turned_upright():
    image = Image.fromarray(GREY)
    image.getexif()[0x0112] = 6  # the camera lay on its side
    np.testing.assert_allclose(light(plain(), image)[0] * 255, np.rot90(GREY, -1), atol=1e-4)


def test_a_path_is_opened(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.array_equal(light(plain(), str(tmp_path / "grey.png")), light(plain(), GREY))


def test_saved_and_loaded_it_does_the_same(tmp_path):
    register()
    processor = ClassifierImageProcessor(
        size={"height": 9, "width": 8},
        num_channels=3,
        resample=3,
        do_rescale=False,
        image_mean=[1.0, 2.0, 3.0],
        image_std=[4.0, 5.0, 6.0],
    )
    processor.save_pretrained(tmp_path)
    loaded = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is ClassifierImageProcessor
    assert loaded.to_dict() == processor.to_dict()
    assert np.array_equal(light(loaded, GREY), light(processor, GREY))
    assert light(loaded, GREY).shape == (3, 9, 8)
