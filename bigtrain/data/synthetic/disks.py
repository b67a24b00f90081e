"""Images of one bright disk on a noisy ground; its centre and radius are to be predicted, in pixels.

The three values carry Gaussian noise of standard deviation `noise`, so no model's mean square error is below noise²
on average. A model comes close to that: the edge of the disk is smooth, and tells where it lies to a few hundredths of
a pixel in spite of the noise in the image.
"""

from __future__ import annotations

import numpy as np

from bigtrain.data.base import SPLITS, DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.samples import normalization_of
from bigtrain.data.synthetic.config import DisksConfig
from bigtrain.data.synthetic.values import ValueSamples, facts_of_values
from bigtrain.data.tokenizers.tokenizer import Tokenizer

_DARK, _BRIGHT, _GRAIN = 64.0, 192.0, 16.0  # grey levels: ground, disk, standard deviation of each pixel
_BLOCK = 4096  # images drawn at once


class Disks(DataModule):
    """Data module `disks`; grey images (1, size, size) uint8, see `DisksConfig`."""

    def __init__(self, config: DisksConfig, tokenizer: Tokenizer | None = None):
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        self._samples = {
            split: _drawn(config, size, np.random.default_rng([config.draw_seed, number]))
            for number, (split, size) in enumerate(sizes.items())
        }
        arrays = [array for samples in self._samples.values() for array in (samples.inputs, samples.values)]
        train = self._samples["train"]
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of("disks", config.noise, *arrays),
            sizes=sizes,
            input_shape=(1, config.size, config.size),
            normalization=normalization_of(train.inputs),
            **facts_of_values(train, ("x", "y", "radius"), np.full(3, config.noise)),
        )

    def dataset(self, split: str) -> ValueSamples:
        return self._samples[split]


def _drawn(config: DisksConfig, count: int, generator: np.random.Generator) -> ValueSamples:
    radii = generator.uniform(config.size / 8, config.size / 4, count)
    centres = generator.uniform(radii, config.size - radii, (2, count))
    images = np.empty((count, 1, config.size, config.size), dtype=np.uint8)
    for start in range(0, count, _BLOCK):
        block = slice(start, start + _BLOCK)
        images[block, 0] = draw_disks(centres[:, block], radii[block], config.size, generator)
    true = np.stack([*centres, radii], axis=1)
    return ValueSamples("images", images, true + config.noise * generator.standard_normal(true.shape))


def draw_disks(centres: np.ndarray, radii: np.ndarray, size: int, generator: np.random.Generator) -> np.ndarray:
    """(N, size, size) uint8; centres (2, N) from the left and from the top. Pixel (0, 0) covers 0 to 1 of both."""
    middles = np.arange(size) + 0.5
    x, y = centres[:, :, None, None]
    distances = np.hypot(middles[None, None, :] - x, middles[None, :, None] - y)
    covered = np.clip(radii[:, None, None] - distances + 0.5, 0, 1)  # about the share of the pixel inside
    grain = _GRAIN * generator.standard_normal(covered.shape)
    return np.clip(_DARK + (_BRIGHT - _DARK) * covered + grain + 0.5, 0, 255).astype(np.uint8)
