"""MNIST-shaped digits made from the fonts that matplotlib ships: real shapes, no download. The data module
and its cache; how a digit is drawn is `data/glyph_drawing.py`'s business.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from bigtrain.data.base import SPLITS, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.config import GlyphsConfig
from bigtrain.data.images import ImageSamples, normalization
from bigtrain.data.tokenizer import Tokenizer

_VERSION = 1  # of the drawing; part of the cache key
_SEED = 28  # fixed: the run's seed leaves the data alone


class Glyphs:
    """Data module `glyphs`: ten balanced classes, 28 x 28 pixels. Splits share fonts, not draws."""

    tokenizer: Tokenizer | None = None

    def __init__(self, config: GlyphsConfig, tokenizer: Tokenizer | None = None):
        sizes = dict(zip(SPLITS, (config.train_images, config.val_images, config.test_images), strict=True))
        makers = [version(package) for package in ("matplotlib", "numpy", "torch")]
        key = fingerprint_of("glyphs", _VERSION, _SEED, sizes, makers)
        prepared = load_or_build(cache_root(config.cache_dir), "glyphs", key, lambda: _draw_splits(sizes))
        arrays = prepared.arrays
        self._samples = {split: ImageSamples(arrays[f"{split}_images"], arrays[f"{split}_labels"]) for split in sizes}
        self.spec = DataSpec(
            kind="images",
            fingerprint=prepared.meta["fingerprint"],
            sizes=sizes,
            input_shape=tuple(arrays["train_images"].shape[1:]),
            num_classes=10,
            labels=tuple("0123456789"),
            normalization=prepared.meta["normalization"],
        )

    def dataset(self, split: str) -> ImageSamples:
        """See `data/base.py`."""
        return self._samples[split]


def _draw_splits(sizes: dict[str, int]) -> Prepared:
    from bigtrain.data.glyph_drawing import (
        draw_digits,
        render_masters,
    )  # matplotlib: 0.3 s that a cached start saves
    from bigtrain.data.progress import status_line

    masters = render_masters()
    arrays: dict[str, np.ndarray] = {}
    done, total = 0, sum(sizes.values())
    with status_line("Drawing digits") as report:
        for number, (split, size) in enumerate(sizes.items()):
            generator = np.random.default_rng([_SEED, number])
            labels = generator.permutation(np.arange(size) % 10).astype(np.uint8)
            images = np.empty((size, 1, 28, 28), dtype=np.uint8)
            for start, drawn in draw_digits(masters, labels, generator):
                images[start : start + len(drawn), 0] = drawn
                report((done + start + len(drawn)) / total)
            done += size
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
    train = ImageSamples(arrays["train_images"], arrays["train_labels"])
    meta = {"fingerprint": fingerprint_of(*arrays.values()), "normalization": normalization(train)}
    return Prepared(meta, arrays)
