"""Random changes of training images, whole batches at a time; evaluation never comes here.

All that is random about a sample follows from its key, so it looks the same in whatever batch it is. Mixing two images
makes two labels and a weight between them, from which the task makes its loss.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bigtrain.data.base import Augmentation, DataSpec
from bigtrain.data.images.config import ImageAugmentConfig
from bigtrain.data.loader import Batch
from bigtrain.errors import ConfigError
from bigtrain.randomness import SeedDomain, mix_array, uniforms

_ERASED_AREA = (0.02, 0.4)  # of the image: least and most, as in the paper; likewise
_ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width


class ImageAugmentation(Augmentation):
    """`images` (B, C, H, W) uint8 → the same, changed. Where two are mixed, also `label_weight` (B,) fp32.

    That is the share of a sample's own label; `partner_labels`, which come with the partners, have the rest.
    """

    def __init__(self, config: ImageAugmentConfig, data_spec: DataSpec):
        self._config = config
        self.needs_partners = bool(config.mixup or config.cutmix)
        mean = data_spec.normalization.get("mean", [0.0])
        self._mean_C11 = (torch.tensor(mean, device="cpu") * 255).round().to(torch.uint8)[:, None, None]

    def __call__(self, samples: Batch) -> Batch:
        """New samples; those given stay as they are."""
        keys = samples["keys"].numpy().view(np.uint64)
        images = self._changed(samples["images"], keys)
        if not self.needs_partners:
            return samples | {"images": images}
        partners = self._changed(samples["partner_images"], mix_array(SeedDomain.MIXUP_PARTNER, keys))
        uniform, angle, down, right = draws(keys, 4, SeedDomain.MIXUP)
        own_B = symmetric_beta(self._config.mixup or self._config.cutmix, uniform, angle)
        if self._config.mixup:
            images = blended(images, partners, own_B)
        else:
            images, own_B = pasted(images, partners, own_B, down, right)
        return samples | {"images": images, "label_weight": own_B.float()}

    def _changed(self, images: Tensor, keys: np.ndarray) -> Tensor:
        """What happens to an image alone. Each change has draws of its own: one more leaves the others as they were."""
        config = self._config
        turn, down, right, mirror, light, contrast, erase, *rectangle = draws(keys, 11, SeedDomain.IMAGE_AUGMENTATION)
        if config.rotate:
            images = rotated(images, (2 * turn - 1) * config.rotate)
        if config.crop:
            steps = 2 * config.crop + 1
            images = shifted(images, (down * steps).long(), (right * steps).long(), config.crop)
        if config.flip:
            images = torch.where((mirror < 0.5)[:, None, None, None], images.flip(3), images)
        if config.brightness or config.contrast:
            factors = 1 + config.brightness * (2 * light - 1), 1 + config.contrast * (2 * contrast - 1)
            images = relit(images, *factors)
        if config.erase:
            erased_B11 = (erase < config.erase)[:, None, None]
            images = torch.where((erased_B11 & rectangles(images, *rectangle))[:, None], self._mean_C11, images)
        return images


def augmentation_for(config: ImageAugmentConfig, data_spec: DataSpec) -> ImageAugmentation | None:
    """None where all is off. Raises ConfigError for a shift that can move an image out of sight."""
    assert data_spec.input_shape is not None
    side = min(data_spec.input_shape[1:])
    if config.crop >= side:
        raise ConfigError.of(
            "CONFIG-COMBINATION",
            f"data.augment.crop is {config.crop}, but the images have only {side} pixels",
            cause="a shift by so much would leave nothing of them",
            fix=f"make it less than {side}; a tenth of the size is usual",
        )
    return None if config == ImageAugmentConfig() else ImageAugmentation(config, data_spec)


def draws(keys: np.ndarray, count: int, domain: int) -> Tensor:
    """(count, B) float64 in [0, 1). Rows are contiguous, as the same kernel must serve a batch of any size."""
    return torch.from_numpy(np.ascontiguousarray(uniforms(keys, count, domain).T))


def symmetric_beta(alpha: float, uniform_B: Tensor, angle_B: Tensor) -> Tensor:
    """Draws from Beta(alpha, alpha), from two uniform ones (Devroye 1996, "Random variate generation in one line")."""
    cosine, power = torch.cos(2 * math.pi * angle_B), uniform_B ** (1 / alpha)
    return 0.5 + 0.5 * cosine * ((1 - power) / (power + (1 - power) * cosine**2)).sqrt()


def shifted(images: Tensor, down_B: Tensor, right_B: Tensor, padding: int) -> Tensor:
    """The window at (down, right) of each image with black around it, `padding` pixels wide; (padding, padding) is
    the image itself.
    """
    height, width = images.shape[2:]
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, down_B, right_B]


def rotated(images: Tensor, degrees_B: Tensor) -> Tensor:
    """Turned about the middle, counter-clockwise, bilinear; black comes in at the corners."""
    height, width = images.shape[2:]
    angle_B11 = torch.deg2rad(degrees_B)[:, None, None]
    cosine, sine = torch.cos(angle_B11), torch.sin(angle_B11)
    # Pixels from the middle. grid_sample wants them as halves of the image.
    y_H1 = torch.arange(height)[:, None] - (height - 1) / 2
    x_W = torch.arange(width) - (width - 1) / 2
    grid = torch.stack([(cosine * x_W - sine * y_H1) * 2 / width, (sine * x_W + cosine * y_H1) * 2 / height], dim=-1)
    return _to_bytes(F.grid_sample(images.float(), grid.float(), align_corners=False))


def relit(images: Tensor, brightness_B: Tensor, contrast_B: Tensor) -> Tensor:
    """Distances from the image's mean times `contrast`, then all times `brightness`."""
    pixels = images[0].numel()
    mean_B = images.sum(dim=(1, 2, 3)) / pixels  # of integers: exact in any order
    scale_B, shift_B = brightness_B * contrast_B, brightness_B * (1 - contrast_B) * mean_B
    return _to_bytes(images * scale_B.float()[:, None, None, None] + shift_B.float()[:, None, None, None])


def rectangles(images: Tensor, area_B: Tensor, aspect_B: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """(B, H, W) bool: a rectangle in each image, from uniform draws; what is too long for a side is cut to it."""
    height, width = images.shape[2:]
    least, most = _ERASED_AREA
    flat, tall = map(math.log, _ERASED_ASPECT)
    pixels_B = (least + (most - least) * area_B) * height * width
    aspect_B = torch.exp(flat + (tall - flat) * aspect_B)
    rows_B = (pixels_B * aspect_B).sqrt().round().clamp(1, height)
    columns_B = (pixels_B / aspect_B).sqrt().round().clamp(1, width)
    top_B, left_B = (down_B * (height - rows_B + 1)).floor(), (right_B * (width - columns_B + 1)).floor()
    return _inside(images, top_B, top_B + rows_B, left_B, left_B + columns_B)


def blended(images: Tensor, partners: Tensor, own_B: Tensor) -> Tensor:
    """Mixup: of each image the share `own`, the rest of its partner."""
    own_B111 = own_B.float()[:, None, None, None]
    return _to_bytes(images * own_B111 + partners * (1 - own_B111))


def pasted(images: Tensor, partners: Tensor, own_B: Tensor, down_B: Tensor, right_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cutmix: a rectangle of the partner around a pixel of the image, and the share of pixels that are its own.

    The rectangle has the image's shape and the share 1 - `own` of its area, less what the borders cut off.
    """
    height, width = images.shape[2:]
    half_B = (1 - own_B).sqrt() / 2
    row_B, column_B = (down_B * height).floor() + 0.5, (right_B * width).floor() + 0.5
    rows_B, columns_B = half_B * height, half_B * width
    partners_BHW = _inside(images, row_B - rows_B, row_B + rows_B, column_B - columns_B, column_B + columns_B)
    own_B = 1 - partners_BHW.sum(dim=(1, 2)) / (height * width)
    return torch.where(partners_BHW[:, None], partners, images), own_B


def _inside(images: Tensor, top_B: Tensor, bottom_B: Tensor, left_B: Tensor, right_B: Tensor) -> Tensor:
    """(B, H, W) bool: whether a pixel's middle lies in the rectangle, whose sides are given as lines between pixels."""
    y_H, x_W = (torch.arange(size) + 0.5 for size in images.shape[2:])
    rows_BH = (y_H >= top_B[:, None]) & (y_H < bottom_B[:, None])
    columns_BW = (x_W >= left_B[:, None]) & (x_W < right_B[:, None])
    return rows_BH[:, :, None] & columns_BW[:, None]


def _to_bytes(images: Tensor) -> Tensor:
    return images.round_().clamp_(0, 255).to(torch.uint8)
