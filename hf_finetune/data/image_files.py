"""Reads one image file as an array, whatever its format and mode, or says what is wrong with it.

The data room scans folders of images with it, and the image collator decodes its batches with it,
so that both see the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hf_finetune.data.array_files import require_file
from hf_finetune.data.file_threads import read_files
from hf_finetune.errors import DataError

Color = Literal["as_is", "grey", "rgb"]
Background = Literal["white", "black"]

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".jpe", ".jfif", ".dib"),
)
# Named, since Pillow would also try formats that call other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP")
_TRANSPARENT_MODES = ("RGBA", "RGBa", "LA", "La", "PA")
_PORTION_BYTES = 32 * 2**20  # a batch needs several times that while it is made


class ImageFile(TypedDict):
    """An image that is decoded when its batch is made; the cell of an undecoded `image` column.

    Attributes:
        path: The file; of one whose content is here, what to call it.
        color: What `read_image` makes of it.
        background: What shows through where it is transparent.
        content: The file's bytes, where they lie in the data set itself.
    """

    path: str
    color: Color
    background: Background
    content: NotRequired[bytes | None]


def read_images(files: Sequence[ImageFile], num_threads: int) -> list[np.ndarray]:
    """The pixels of several files, in their order; each as `read_image` returns them.

    Args:
        files: The files.
        num_threads: How many to decode at a time at most.

    Raises:
        DataError: As `read_image`, for the first bad file.
    """

    def read(file: ImageFile) -> np.ndarray:
        return read_image(file["path"], file["color"], file["background"], file.get("content"))

    try:
        num_bytes = sum(_count_bytes(file) for file in files)
    except OSError:  # the reading itself says of which file, and what
        num_bytes = 0
    with quiet_pillow():
        return read_files(read, files, num_bytes, num_threads)


def read_portions(files: Sequence[ImageFile], num_threads: int) -> Iterator[list[np.ndarray]]:
    """The same as `read_images`, a portion at a time: photographs of many megapixels add up.

    Args:
        files: The files.
        num_threads: As `read_images` takes it.

    Yields:
        Images that follow each other, all where they are small; else about `_PORTION_BYTES` of
        them, or one for each thread where that is more.

    Raises:
        DataError: As `read_images`.
    """
    images: list[np.ndarray] = []
    start, count = 0, num_threads
    while start < len(files):
        images += read_images(files[start : start + count], num_threads)
        start += count
        sizes = [image.nbytes for image in images]
        # Doubled at most: what follows a few small images may be large.
        count = min(len(images), (_PORTION_BYTES - sum(sizes)) // max(sizes))
        if count < num_threads:
            yield images
            images, count = [], num_threads
    if images:
        yield images


def _count_bytes(file: ImageFile) -> int:
    content = file.get("content")
    return Path(file["path"]).stat().st_size if content is None else len(content)


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's remarks on odd but readable files off the terminal; for use around threads.

    What matters of them (a decompression bomb, a file cut short) `read_image` raises.
    """
    Image.init()  # loads the formats, which several threads at once could not
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def read_image(
    path: str | Path, color: Color, background: Background, content: bytes | None = None
) -> np.ndarray:
    """The pixels of a file: its first frame, upright as its EXIF orientation says.

    Args:
        path: PNG, JPEG, BMP, TIFF, GIF or WebP, by what the file holds.
        color: `grey` (ITU-R BT.601), `rgb`, or `as_is`: grey where red, green and blue are equal
            in every pixel.
        background: What transparent images are laid on.
        content: The file's bytes; then `path` is only what to call it.

    Returns:
        `[height, width]` if grey, else `[height, width, 3]`: uint8 0…255; or float32 0…1 for files
        of 16 bits (65535 is 1) or of floats.

    Raises:
        DataError: The file is missing, empty, truncated, no image, larger than Pillow's limit
            against decompression bombs, or its numbers have no known range.
    """
    try:
        source = path if content is None else io.BytesIO(content)
        with Image.open(source, formats=_FORMATS) as image:
            _check_size(path, image)
            pixels = _pixels_of(image, background)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        if content is None:
            require_file(Path(path))  # knows better where it is empty or a Git LFS pointer
        raise DataError(f"{path}: it is no image of a known format.") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file.") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {_too_large()}") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise DataError(f"{path}: it can't be read as an image ({error}).") from error
    return _bring_to(pixels, color)


def describe_pixels(pixels: np.ndarray) -> dict[str, Any]:
    """What is worth knowing of an image without decoding it again.

    Args:
        pixels: As `read_image` returns them.

    Returns:
        `digest` (SHA-256 of type, shape and pixels, hex), `height`, `width`, `channels`, and by
        channel (three of them, equal if grey) `sums` and `squares`: of all pixels, and of their
        squares, on the scale 0…1, in float64.
    """
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.dtype == np.uint8:
        counts = np.array(Image.fromarray(pixels).histogram()).reshape(channels, 256)
        levels = np.arange(256)
        sums, squares = counts @ levels / 255, counts @ levels**2 / 255**2
    else:
        planes = pixels.reshape(-1, channels)
        sums, squares = planes.sum(0, np.float64), np.square(planes, dtype=np.float64).sum(0)
    return {
        "digest": digest.hexdigest(),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "channels": channels,
        "sums": np.broadcast_to(sums, 3).tolist(),
        "squares": np.broadcast_to(squares, 3).tolist(),
    }


def _too_large() -> str:
    return (
        f"it has more pixels than Pillow's limit against decompression bombs allows "
        f"({Image.MAX_IMAGE_PIXELS:,})."
    )


def _check_size(path: str | Path, image: Image.Image) -> None:
    """Refuses from Pillow's limit on; Pillow itself only warns up to twice that."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise DataError(f"{path}: {_too_large()}")


def _pixels_of(image: Image.Image, background: Background) -> np.ndarray:
    """The decoded pixels: `[H, W]` or `[H, W, 3]`, uint8 0…255 or float32 0…1."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith(("I", "F")):
        return _deep_grey(image, background)
    image = lay_on(image, background)
    return np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))


def _deep_grey(image: Image.Image, background: Background) -> np.ndarray:
    """Grey of 16 bits or of floats as float32 0…1; Pillow's own conversions would clip it."""
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        pixels = values.astype(np.float32) / np.float32(65535)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            pixels[values == transparent] = float(background == "white")
        return pixels
    if image.mode == "F" and ((values >= 0) & (values <= 1)).all():  # a NaN fails both
        return np.array(values, np.float32)
    raise ValueError(
        "whole numbers of 32 bits or with a sign, of which none is known to be white"
        if image.mode == "I"
        else f"floats from {values.min():g} to {values.max():g}; expected 0 to 1"
    )


def lay_on(image: Image.Image, background: Background) -> Image.Image:
    """An image of 8 bits without its transparency, if it has any; any other as it is."""
    transparent = "transparency" in image.info or image.mode in _TRANSPARENT_MODES
    if not transparent or image.mode.startswith(("I", "F")):
        return image
    if image.mode == "La":  # grey that is multiplied by its opacity
        image = image.convert("LA")
    pixels = np.array(image.convert("RGBA"))
    light, opacity = pixels[..., :3], pixels[..., 3:].astype(np.uint16)
    behind = (255 - opacity) * np.uint16(255 if background == "white" else 0)
    # At most 255 * 255 + 127, which 16 bits hold; halves are rounded up.
    levels = (light * opacity + behind + np.uint16(127)) // np.uint16(255)
    return Image.fromarray(levels.astype(np.uint8))


def _bring_to(pixels: np.ndarray, color: Color) -> np.ndarray:
    """The channels asked for."""
    if color == "rgb" and pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if color == "grey" and pixels.ndim == 3:
        return np.array(Image.fromarray(pixels).convert("L"))
    if color == "as_is" and pixels.ndim == 3 and _is_grey(pixels):
        return np.ascontiguousarray(pixels[..., 0])
    return pixels


def _is_grey(pixels: np.ndarray) -> bool:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return np.array_equal(red, green) and np.array_equal(green, blue)
