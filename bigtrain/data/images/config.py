"""Settings of image data; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import setting
from bigtrain.registry import DATA


@dataclass
class HoldOutConfig(DataConfig):
    """Settings that every image data module shares whose validation images are held out of its training images."""

    provides: ClassVar[str] = "images"
    target: ClassVar[str] = "classes"

    val_fraction: float = setting(
        1 / 6,
        "Part of the training images held out for validation, drawn by a fixed seed.",
        at_least=0,
        below=1,
    )


@dataclass
class IDXConfig(HoldOutConfig):
    """Images in MNIST's IDX format: four files, plain or .gz, under `path` or where Debian puts them."""

    path: str | None = setting(None, "Directory with the four IDX files; default: the usual places.", path=True)
    prefix: str = setting(
        "",
        "What the names of the four files begin with, for instance emnist-letters-; empty: nothing, or the only set.",
    )
    transpose: bool = setting(False, "Swap rows and columns of each image: EMNIST stores them lying on their side.")
    first_label: int = setting(0, "Number of the first class in the files.", at_least=0, at_most=255)
    labels: list[str] = setting([], "Names of the classes, in order; empty: the numbers.")
    usual_places: list[str] = setting([], "Directories to look in when path is not given.")
    hint: str = setting("", "How to get the files; said when they are missing.")


@dataclass
class GlyphsConfig(HoldOutConfig):
    """MNIST-shaped digits drawn from the fonts that matplotlib ships; cached.

    60,000 and 10,000 of 28 x 28 pixels, with random affine and elastic distortion, stroke, ink, gaps and noise.
    """

    train_images: int = setting(60_000, "Images to train on and to hold validation out of.", at_least=1)
    test_images: int = setting(10_000, "Test images.", at_least=1)
    cache_dir: str | None = setting(None, "Where the images are cached; default: the user's cache folder.", path=True)


DATA.register("idx", IDXConfig, factory="bigtrain.data.images.idx:IDXImages")
DATA.register("glyphs", GlyphsConfig, factory="bigtrain.data.images.glyphs:Glyphs")
