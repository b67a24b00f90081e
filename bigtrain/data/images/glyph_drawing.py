"""How a digit is drawn: a master per font and digit, then random shape, stroke, ink and noise for many at
once.

Pixels are drawn at twice the size and averaged, so that edges are smooth. All randomness comes from the
generator that is passed in. The elastic distortion is a smooth field of random displacements after Simard,
Steinkraus and Platt (2003); here it is smooth as it is interpolated between 5 x 5 random knots.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bigtrain.errors import MachineError

_CANVAS = 72  # pixels of a master; its 52-pixel digits become 20 of 28, as in MNIST
_FONT_SIZE = 72
_OUTPUT = 28
_BATCH = 2_000
_SYMBOL_FONTS = {"cmex10", "cmsy10", "LastResortHE-Regular"}  # other signs stand where the digits should


def render_masters() -> np.ndarray:
    """(fonts, 10, 72, 72) float32 in [0, 1]: each digit of each font, centred, a little blurred."""
    import matplotlib
    from matplotlib.ft2font import FT2Font

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rows = []
    for path in sorted(folder.glob("*.ttf")):
        font = FT2Font(str(path))
        if path.stem in _SYMBOL_FONTS or not set(map(ord, "0123456789")) <= set(font.get_charmap()):
            continue
        font.set_size(_FONT_SIZE, 72)  # at 72 dots per inch a point is a pixel
        rows.append([_centred(_render(font, digit)) for digit in "0123456789"])
    if not rows:
        raise MachineError.of(
            "NO-FONTS",
            f"there are no fonts with digits in {folder}",
            cause="this matplotlib comes without its fonts",
            fix="install matplotlib from the Python package index, or choose data=fashion_mnist",
        )
    masters = torch.from_numpy(np.array(rows, dtype=np.float32) / 255)
    return _blurred(masters.reshape(-1, 1, _CANVAS, _CANVAS), 1.5).reshape(masters.shape).numpy()


def draw_digits(
    masters: np.ndarray, labels: np.ndarray, generator: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first index, images (b, 28, 28) uint8) for all of `labels`, each from a random font."""
    for start in range(0, len(labels), _BATCH):
        digits = labels[start : start + _BATCH]
        fonts = generator.integers(len(masters), size=len(digits))
        chosen = torch.from_numpy(masters[fonts, digits])[:, None]
        ink = F.grid_sample(chosen, _sampling_grid(len(digits), generator), align_corners=False)
        images = F.avg_pool2d(_inked(ink, generator), 2)[:, 0]
        yield start, (_disturbed(images, generator) * 255).round().to(torch.uint8).numpy()


def _sampling_grid(count: int, generator: np.random.Generator) -> Tensor:
    """(count, 56, 56, 2): where in the master, in [-1, 1], each pixel is taken from: affine plus elastic."""

    def uniform(low: float, high: float) -> np.ndarray:
        return generator.uniform(low, high, count)

    angle, shear = np.deg2rad(uniform(-20, 20)), uniform(-0.3, 0.3)
    wide, high = uniform(0.8, 1.4), uniform(0.85, 1.3)  # the master's pixels per pixel: above 1 is smaller
    cos, sin = np.cos(angle), np.sin(angle)
    affine = np.stack(
        [
            np.stack([cos * wide, (cos * shear - sin) * high, uniform(-0.25, 0.25)], axis=1),
            np.stack([sin * wide, (sin * shear + cos) * high, uniform(-0.2, 0.2)], axis=1),
        ],
        axis=1,
    )
    size = 2 * _OUTPUT
    grid = F.affine_grid(_tensor(affine), [count, 1, size, size], align_corners=False)
    strength = uniform(0.02, 0.1)[:, None, None, None]
    knots = _tensor(generator.standard_normal((count, 2, 5, 5)) * strength)
    elastic = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    return grid + elastic.permute(0, 2, 3, 1)


def _inked(ink: Tensor, generator: np.random.Generator) -> Tensor:
    """Blurred strokes cut at a random level: a low one makes them thick, a high one thin or broken."""
    level = _tensor(generator.uniform(0.15, 0.5, len(ink)))[:, None, None, None]
    return ((ink - level) * 4 + 0.5).clamp(0, 1)


def _disturbed(images: Tensor, generator: np.random.Generator) -> Tensor:
    """Fainter ink, a patch rubbed out, and grain."""
    count = len(images)
    images = images * _tensor(generator.uniform(0.6, 1, count))[:, None, None]
    pixels = torch.arange(_OUTPUT)
    corner = torch.from_numpy(generator.integers(2, _OUTPUT - 6, (2, count)))[:, :, None]
    extent = torch.from_numpy(generator.integers(0, 7, (2, count)))[:, :, None]
    rows, columns = (pixels >= corner) & (pixels < corner + extent)
    images = images.masked_fill(rows[:, :, None] & columns[:, None, :], 0)
    grain = generator.standard_normal(images.shape, dtype=np.float32)
    strength = _tensor(generator.uniform(0, 0.15, count))[:, None, None]
    return (images + torch.from_numpy(grain) * strength).clamp(0, 1)


def _render(font: object, digit: str) -> np.ndarray:
    font.set_text(digit, 0.0)  # type: ignore[attr-defined]
    font.draw_glyphs_to_bitmap(antialiased=True)  # type: ignore[attr-defined]
    return np.array(font.get_image())  # type: ignore[attr-defined]


def _centred(image: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1][:_CANVAS, :_CANVAS]
    canvas = np.zeros((_CANVAS, _CANVAS), dtype=np.uint8)
    top, left = (_CANVAS - image.shape[0]) // 2, (_CANVAS - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, 1, H, W), one axis after the other."""
    radius = round(3 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    images = F.conv2d(images, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(images, kernel.view(1, 1, 1, -1), padding=(0, radius))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.float32))
