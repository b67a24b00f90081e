"""Reads one image file to an array, by Pillow, trusting nothing in it. Which files make a data set:
`data/images/class_folders.py`.
"""

from __future__ import annotations

import hashlib
import io
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
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # whatever the file's name says


def read_image(path: Path, size: int | None, channels: int) -> tuple[np.ndarray, int]:
    """(channels, H, W) uint8, and a 64-bit hash of the file's bytes. Of several images or pages, the first.

    Turned upright as its EXIF data say; what is transparent is laid on white; 16 bits become 8. With a `size`, scaled
    until the shorter side has it, and cut from the middle. Raises DataError, naming the file, for what is no image.
    """
    from PIL import Image, ImageOps  # 0.1 s that a cached start does not pay

    try:
        if path.stat().st_size > _MAX_BYTES:
            raise broken(path, f"it has more than {_MAX_BYTES:,} bytes")
        content = path.read_bytes()
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise broken(path, f"it has {image.width:,} x {image.height:,} pixels; {MAX_PIXELS:,} are allowed")
            if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
                raise broken(path, "its pixels are measurements, of 32 bits, whose black and white are not known")
            upright = _plain(ImageOps.exif_transpose(image), "L" if channels == 1 else "RGB")
        if size is not None:
            upright = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
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
    pixels = np.asarray(upright).reshape(upright.height, upright.width, channels).transpose(2, 0, 1)
    return pixels, int.from_bytes(hashlib.sha256(content).digest()[:8], "little")


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
