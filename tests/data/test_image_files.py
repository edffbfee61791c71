"""One image file: every format and mode becomes the pixels that it means, or a clear error."""

from __future__ import annotations

import warnings
from itertools import count
from pathlib import Path
from threading import Barrier, current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hf_finetune.data import file_threads, image_files
from hf_finetune.data.image_files import (
    describe_pixels,
    quiet_pillow,
    read_image,
    read_images,
    read_portions,
)
from hf_finetune.errors import DataError

COLOR = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = COLOR[..., 0]
DEEP = (np.arange(54).reshape(6, 9) * 1236).astype(np.uint16)  # 0 … 65508


def read(path: Path, color: Any = "as_is", background: Any = "white") -> np.ndarray:
    return read_image(path, color, background)


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.tif", "x.gif", "x.webp", "x.png.jpg"])
@pytest.mark.parametrize("grey", [True, False])
def test_lossless_formats_are_read_to_the_bit(name: str, grey: bool, tmp_path: Path):
    pixels = GREY if grey else COLOR // 128 * 128  # few colours, so that GIF loses none
    settings = {"lossless": True} if name == "x.webp" else {}
    kind = "PNG" if name == "x.png.jpg" else None  # what the file holds counts, not its name
    Image.fromarray(pixels).save(tmp_path / name, format=kind, **settings)
    assert np.array_equal(read(tmp_path / name), pixels)
    assert read(tmp_path / name).dtype == np.uint8


def test_jpeg_is_near(tmp_path: Path):
    smooth = np.asarray(Image.fromarray(COLOR).resize((90, 60), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=95, subsampling=0)
    assert np.abs(read(tmp_path / "x.jpg").astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("name", ["x.gif", "x.tif", "x.webp"])
def test_the_first_frame_counts(name: str, tmp_path: Path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 200, 90)]
    settings = {"lossless": True} if name == "x.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **settings)
    assert (read(tmp_path / name) == 10).all()


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_sixteen_bits_are_scaled_and_never_clipped(name: str, tmp_path: Path):
    Image.fromarray(DEEP).save(tmp_path / name)
    pixels = read(tmp_path / name)
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, DEEP.astype(np.float32) / np.float32(65535))
    assert read(tmp_path / name, "rgb").shape == (6, 9, 3)
    assert read(tmp_path / name, "grey").shape == (6, 9)


def test_floats_from_0_to_1_are_kept(tmp_path: Path):
    values = (DEEP / 65535).astype(np.float32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert np.array_equal(read(tmp_path / "x.tif"), values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (DEEP.astype(np.float32), "floats from 0 to 65508; expected 0 to 1"),
        (np.full((3, 3), np.nan, np.float32), "floats from nan to nan"),
        (DEEP.astype(np.int32), "whole numbers of 32 bits"),
    ],
)
def test_numbers_without_a_known_range_are_refused(values: Any, message: str, tmp_path: Path):
    Image.fromarray(values).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=f"x.tif: it can't be read as an image .{message}"):
        read(tmp_path / "x.tif")


@pytest.mark.parametrize(("background", "behind"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_the_background(
    mode: str, background: str, behind: int, tmp_path: Path
):
    light = np.full((2, 3, 4), 103, np.uint8)
    light[..., 3] = [[0, 51, 255], [255, 204, 102]]
    image = Image.fromarray(light)
    if mode == "PA":  # a palette with an opacity for each entry
        image = image.quantize(8)
    elif mode == "LA":
        image = image.convert("LA")
    image.save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == {"PA": "P"}.get(mode, mode)
    opacity = light[..., 3] / 255
    expected = np.floor(103 * opacity + behind * (1 - opacity) + 0.5)
    assert np.array_equal(read(tmp_path / "x.png", background=background), expected)


def test_one_transparent_colour_is_laid_on_the_background(tmp_path: Path):
    pixels = np.array([[[1, 2, 3], [9, 9, 8]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png", transparency=(1, 2, 3))
    assert read(tmp_path / "x.png").tolist() == [[[255] * 3, [9, 9, 8]]]
    Image.fromarray(DEEP).save(tmp_path / "y.png", transparency=int(DEEP[0, 1]))
    assert read(tmp_path / "y.png")[0, 1] == 1
    assert read(tmp_path / "y.png", background="black")[0, 1] == 0


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_the_exif_orientation_is_honoured(name: str, tmp_path: Path):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / name, exif=exif)
    assert np.abs(read(tmp_path / name).astype(int) - upright[..., 0]).max() < 4


def test_other_modes_become_levels(tmp_path: Path):
    Image.fromarray(GREY > 128).save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png"), np.where(GREY > 128, 255, 0))
    plain = np.full((16, 16, 3), (200, 30, 90), np.uint8)
    Image.fromarray(plain).convert("CMYK").save(tmp_path / "x.jpg", quality=100)
    assert np.abs(read(tmp_path / "x.jpg").astype(int) - plain).max() < 6


def test_grey_is_what_is_grey_in_every_pixel(tmp_path: Path):
    repeated = np.repeat(GREY[..., None], 3, 2)
    Image.fromarray(repeated).save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png"), GREY)
    repeated[3, 4, 2] ^= 1
    Image.fromarray(repeated).save(tmp_path / "x.png")
    assert np.array_equal(read(tmp_path / "x.png"), repeated)


def test_channels_are_as_asked_for(tmp_path: Path):
    Image.fromarray(COLOR).save(tmp_path / "color.png")
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    grey = np.asarray(Image.fromarray(COLOR).convert("L"))
    assert np.array_equal(read(tmp_path / "color.png", "grey"), grey)
    assert np.array_equal(read(tmp_path / "color.png", "rgb"), COLOR)
    assert np.array_equal(read(tmp_path / "grey.png", "rgb"), np.repeat(GREY[..., None], 3, 2))


@pytest.mark.parametrize("side", [11, 15])  # Pillow itself would warn of 11 × 11 only
def test_a_decompression_bomb_is_refused(
    side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with quiet_pillow(), pytest.raises(DataError, match=r"x.png: it has more pixels .*\(100\)"):
        read(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x.png: the file is empty"),
        (b"not an image", "x.png: it is no image of a known format"),
        (b"version https://git-lfs.github.com/spec/v1\n", "x.png: this is a Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image of a known format"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "x.png")


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.bmp", "x.tif", "x.gif", "x.webp"])
def test_a_truncated_file_is_named(name: str, tmp_path: Path):
    Image.fromarray(np.tile(COLOR, (8, 8, 1))).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for part in (0.3, 0.7):
        (tmp_path / name).write_bytes(whole[: int(part * len(whole))])
        with quiet_pillow(), pytest.raises(DataError, match=name):
            read(tmp_path / name)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=f"{name}: there is no such file"):
        read(tmp_path / name)


def test_threads_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(file_threads, "_LARGE_BYTES", 1)
    names: set[str] = set()
    calls, meeting = count(), Barrier(2)

    def read_in_company(*file: Any) -> np.ndarray:
        names.add(current_thread().name)
        if current_thread() is not main_thread() and next(calls) < 2:
            meeting.wait(timeout=30)  # else the first thread may have read all before a second runs
        return read_image(*file)

    monkeypatch.setattr(image_files, "read_image", read_in_company)
    files: Any = []
    for level in range(30):
        path = tmp_path / f"{level}.png"
        Image.fromarray(np.full((4 + level, 5), level, np.uint8)).save(path)
        files.append({"path": str(path), "color": "grey", "background": "white"})
    for threads in (1, 3):
        images = read_images(files, threads)
        assert [image[0, 0] for image in images] == list(range(30))
        assert [image.shape for image in images] == [(4 + level, 5) for level in range(30)]
        assert (len(names) > 1) == (threads > 1)
        names.clear()
    Path(files[7]["path"]).unlink()
    for threads in (1, 3):
        with pytest.raises(DataError, match=r"7\.png: there is no such file"):
            read_images(files, threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_large_images_come_in_portions(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Six small ones, and then some of which two fill a portion, and one that is larger than it.
    sides = [*[4] * 6, *[40] * 5, 64, *[4] * 3]
    files: Any = []
    for number, side in enumerate(sides):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((side, side), number, np.uint8)).save(path)
        files.append({"path": str(path), "color": "grey", "background": "white"})

    def portions() -> list[list[int]]:
        return [[image[0, 0] for image in part] for part in read_portions(files, threads)]

    assert portions() == [list(range(len(sides)))]
    monkeypatch.setattr(image_files, "_PORTION_BYTES", 2 * 40 * 40 + 100)
    # As many again as were read, where they are likely to fit: 64 × 64 comes as a surprise.
    assert portions() == [[*range(8)], [8, 9], [10, 11], [12, 13, 14]]
    assert list(read_portions([], threads)) == []


def test_pillows_remarks_stay_off_the_terminal(tmp_path: Path):
    path = tmp_path / "x.jpg"
    Image.fromarray(COLOR).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")  # cut short
    with warnings.catch_warnings(), quiet_pillow():
        read(path)
    with pytest.warns(UserWarning, match="EXIF"):
        read(path)


@pytest.mark.parametrize("pixels", [COLOR, GREY, (GREY / 255).astype(np.float32)])
def test_what_is_known_of_an_image_is_right(pixels: np.ndarray):
    facts = describe_pixels(pixels)
    assert (facts["height"], facts["width"]) == (6, 9)
    assert facts["channels"] == (3 if pixels is COLOR else 1)
    unit = pixels / (255 if pixels.dtype == np.uint8 else 1)
    unit = np.broadcast_to(unit.reshape(54, -1), (54, 3)).astype(np.float64)
    np.testing.assert_allclose(facts["sums"], unit.sum(0), rtol=1e-12)
    np.testing.assert_allclose(facts["squares"], (unit**2).sum(0), rtol=1e-12)


def test_equal_pixels_have_one_digest_and_others_another():
    alike = [GREY, GREY.copy(), np.asfortranarray(GREY)]
    other = [GREY.T, GREY.reshape(9, 6), GREY.astype(np.float32), np.roll(GREY, 1), COLOR]
    digests = [describe_pixels(pixels)["digest"] for pixels in (*alike, *other)]
    assert len(set(digests[:3])) == 1
    assert len(set(digests)) == 1 + len(other)
