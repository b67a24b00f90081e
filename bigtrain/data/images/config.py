"""Settings of image data; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.registry import DATA


@dataclass
class ImageAugmentConfig:
    """Random changes of training images, drawn anew in each epoch; all off by default. What moves in is black."""

    crop: int = setting(0, "Shift by up to so many pixels up or down, and left or right.", at_least=0)
    flip: bool = setting(False, "Mirror every second image, left to right.")
    rotate: float = setting(0.0, "Turn by up to so many degrees, either way.", at_least=0, at_most=180)
    brightness: float = setting(
        0.0, "Multiply the brightness by 1 - brightness to 1 + brightness.", at_least=0, at_most=1
    )
    contrast: float = setting(0.0, "Multiply the contrast by 1 - contrast to 1 + contrast.", at_least=0, at_most=1)
    erase: float = setting(
        0.0,
        "Probability of filling a rectangle with the mean of the training images (random erasing, arXiv:1708.04896).",
        at_least=0,
        at_most=1,
    )
    mixup: float = setting(
        0.0,
        "Blend with another image and its label; their shares follow Beta(mixup, mixup) (arXiv:1710.09412).",
        at_least=0,
    )
    cutmix: float = setting(
        0.0,
        "Paste a rectangle of another image, with its share of the label; shares follow Beta(cutmix, cutmix) "
        "(arXiv:1905.04899).",
        at_least=0,
    )

    def problems(self) -> list[Invalid]:
        if self.mixup and self.cutmix:
            return [Invalid("mixup", f"is {self.mixup} and cutmix is {self.cutmix}; only one of them can be on")]
        return []


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
    augment: ImageAugmentConfig = setting(ImageAugmentConfig, "Random changes of the training images.")


@dataclass
class IDXConfig(HoldOutConfig):
    """Images in MNIST's IDX format: four files, plain or .gz, under `path` or where Debian puts them."""

    path: str | None = setting(
        None, "Directory with the four IDX files, or above them, as MNIST/raw; default: the usual places.", path=True
    )
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


@dataclass
class CIFAR10Config(HoldOutConfig):
    """CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of ten classes, 32 x 32 in colour."""

    path: str | None = setting(None, "Directory with the binary version's files, or its .tar.gz.", path=True)


@dataclass
class CIFAR100Config(HoldOutConfig):
    """CIFAR-100 (Krizhevsky 2009): as many images as CIFAR-10, of a hundred classes."""

    path: str | None = setting(None, "Directory with the binary version's files, or its .tar.gz.", path=True)
    coarse: bool = setting(False, "Learn the 20 superclasses instead.")


@dataclass
class ImageFolderConfig(HoldOutConfig):
    """PNG, JPEG, WebP, BMP, GIF, TIFF, PPM and PGM files, in a folder per class; decoded once, then cached, or
    each time they are read where they are many.

    Under `path` either the class folders, which are split here, or train, perhaps val, and test with class folders.
    Links are followed. Of an animation the first frame is read.
    """

    path: str | None = setting(None, "Directory with a folder per class, or with train, val and test.", path=True)
    size: int | None = setting(
        None,
        "Height and width in pixels: images are scaled to it, and cut from the middle where they are no squares; "
        "default: as they are, when all are of one size.",
        at_least=1,
        at_most=4096,
    )
    channels: int = setting(3, "3 for colour, 1 for grey.")
    test_fraction: float = setting(
        1 / 7, "Part of all images to test on, where there is no test folder.", at_least=0, below=1
    )
    stratify: bool = setting(
        True,
        "Draw the same part of each class, and one image at least; otherwise each image by chance, whatever its class.",
        before=False,
    )
    skip_broken: bool = setting(
        False,
        "Leave out files that can't be read as images, and say how many; otherwise the first is an error.",
        before=False,
    )
    decode: str = setting(
        "auto",
        "ahead: once, to the cache; on_read: in threads, each time an image is read; auto: on_read where all images "
        "have more than 4 GiB as pixels (docs/data.md).",
        choices=("auto", "ahead", "on_read"),
        before="ahead",
    )
    cache_dir: str | None = setting(None, "Where the images are cached; default: the user's cache folder.", path=True)

    def problems(self) -> list[Invalid]:
        return [] if self.channels in (1, 3) else [Invalid("channels", f"is {self.channels}; it must be 1 or 3")]


DATA.register("idx", IDXConfig, factory="bigtrain.data.images.idx:IDXImages")
DATA.register("glyphs", GlyphsConfig, factory="bigtrain.data.images.glyphs:Glyphs")
DATA.register("cifar10", CIFAR10Config, factory="bigtrain.data.images.cifar:CIFAR")
DATA.register("cifar100", CIFAR100Config, factory="bigtrain.data.images.cifar:CIFAR")
DATA.register("image_folder", ImageFolderConfig, factory="bigtrain.data.images.image_folder:ImageFolder")
