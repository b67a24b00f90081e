"""Reads one image file to an array, by Pillow, trusting nothing in it. Which files make a data set:
`data/images/class_folders.py`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bigtrain.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
MAX_PIXELS = 1 << 26  # 8192 x 8192; a small file can claim far more than memory holds
_MAX_BYTES = 1 << 28
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)  # EXIF tag; its values where height and width change places
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # whatever the file's name says


def read_image(path: Path, size: int | None, channels: int) -> tuple[np.ndarray, int]:
    """(channels, H, W) uint8, and a 64-bit hash of the file's bytes. Of several images or pages, the first.

    Turned upright as its EXIF data say; what is transparent is laid on white; 16 bits become 8. With a `size`, scaled
    until the shorter side has it, and cut from the middle. Raises DataError, naming the file, for what is no image.
    """
    from PIL import Image, ImageOps  # 0.1 s that a cached start does not pay

    with _errors_named(path):
        content = _content_of(path)
        with _opened(path, content) as image:
            upright = _plain(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        if size is not None:
            upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(upright).reshape(upright.height, upright.width, channels).transpose(2, 0, 1)
    return pixels, _hash_of(content)


def read_header(path: Path, size: int | None, channels: int) -> tuple[tuple[int, int, int], int]:
    """The shape of what `read_image` gives, and its hash, without decoding: damage behind the header is not found.

    (A PNG without `size` is decoded: its EXIF data, which may turn it, may stand at its end.)
    """
    with _errors_named(path):
        content = _content_of(path)
        with _opened(path, content) as image:
            height, width = image.height, image.width
            if size is not None:
                height = width = size
            elif image.getexif().get(_ORIENTATION, 1) in _LYING:
                height, width = width, height
    return (channels, height, width), _hash_of(content)


def _content_of(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise broken(path, f"it has more than {_MAX_BYTES:,} bytes")
    return path.read_bytes()


def _hash_of(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


@contextmanager
def _opened(path: Path, content: bytes) -> Iterator[Image]:
    """The image, of which only the header is read as yet. Raises DataError for one that must not be decoded."""
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise broken(path, f"it has {image.width:,} x {image.height:,} pixels; {MAX_PIXELS:,} are allowed")
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            raise broken(path, "its pixels are measurements, of 32 bits, whose black and white are not known")
        yield image


@contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    """Makes whatever reading and decoding raise a DataError that names the file."""
    from PIL import Image

    try:
        yield
    except DataError:
        raise
    except OSError as error:  # Pillow's own names a BytesIO where it does not know the format
        cause = (
            f"it is in none of the formats {', '.join(_FORMATS)}"
            if isinstance(error, Image.UnidentifiedImageError)
            else error.strerror or str(error)
        )
        raise broken(path, cause) from error
    except Exception as error:  # whatever a decoder says of damage: SyntaxError, struct.error, a bomb …
        raise broken(path, f"{type(error).__name__}: {error}") from error


def broken(path: Path, cause: str) -> DataError:
    """What is wrong with an image, as an error."""
    return DataError.of("DATA-IMAGE", f"can't read {path}", cause=cause, fix="mend the file, or take it out")


def _plain(image: Image, mode: str) -> Image:
    """Grey or RGB of 8 bits, opaque."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits; Pillow's conversion would cut off above 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def require_same_size(path: Path, shape: tuple[int, ...], other_path: Path, other: tuple[int, ...]) -> None:
    """Raises DataError where two images are not of one shape (C, H, W)."""
    if shape != other:
        raise DataError.of(
            "DATA-IMAGE",
            f"{path} has {_pixels(shape)} pixels, {other_path} has {_pixels(other)}",
            cause="images must be of one size",
            fix=f"data.size={min(other[1:])} scales and cuts them all to squares of that size",
        )


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]}"
