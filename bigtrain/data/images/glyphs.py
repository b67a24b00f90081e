"""MNIST-shaped digits made from the fonts that matplotlib ships: real shapes, no download. The data module
and its cache; how a digit is drawn: `data/images/glyph_drawing.py`.

As in MNIST there are 60,000 images to train on, of which a part is held out for validation, and 10,000 to
test on. Drawing them takes 12 s on one core, once.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np

from bigtrain.data.base import DataModule, DataSpec
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.images.augment import augmentation_for
from bigtrain.data.images.config import GlyphsConfig
from bigtrain.data.images.samples import ImageSamples, hold_out, normalization, split_of, warn_of_missing
from bigtrain.data.tokenizers.tokenizer import Tokenizer

_VERSION = 2  # of the drawing; part of the cache key
_NAMES = tuple("0123456789")
_SEED = 28  # fixed: the run's seed leaves the data alone


class Glyphs(DataModule):
    """Data module `glyphs`: ten balanced classes, 28 x 28 pixels. Splits share fonts, not draws."""

    def __init__(self, config: GlyphsConfig, tokenizer: Tokenizer | None = None):
        counts = {"train": config.train_images, "test": config.test_images}
        makers = [version(package) for package in ("matplotlib", "numpy", "torch")]
        key = fingerprint_of("glyphs", _VERSION, _SEED, counts, makers)
        prepared = load_or_build(cache_root(config.cache_dir), "glyphs", key, lambda: _draw(counts))
        arrays = prepared.arrays
        self._samples, swapped = hold_out(arrays["train_images"], arrays["train_labels"], config.val_fraction)
        self._samples["test"] = ImageSamples(arrays["test_images"], arrays["test_labels"])
        warn_of_missing(_NAMES, self._samples, config.val_fraction)
        sizes = {split: len(samples) for split, samples in self._samples.items()}
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of(prepared.meta["fingerprint"], sizes, *swapped),
            sizes=sizes,
            input_shape=tuple(arrays["train_images"].shape[1:]),
            num_classes=10,
            labels=_NAMES,
            normalization=normalization(self._samples["train"]),
        )
        self.augment = augmentation_for(config.augment, self.spec)

    def dataset(self, split: str) -> ImageSamples:
        return split_of(self._samples, split)


def _draw(counts: dict[str, int]) -> Prepared:
    from bigtrain.data.images.glyph_drawing import (
        draw_digits,
        render_masters,
    )  # matplotlib: 0.3 s that a cached start saves
    from bigtrain.tracking.status_line import status_line

    masters = render_masters()
    arrays: dict[str, np.ndarray] = {}
    done, total = 0, sum(counts.values())
    with status_line("Drawing digits") as report:
        for number, (split, size) in enumerate(counts.items()):
            generator = np.random.default_rng([_SEED, number])
            labels = generator.permutation(np.arange(size) % 10).astype(np.uint8)
            images = np.empty((size, 1, 28, 28), dtype=np.uint8)
            for start, drawn in draw_digits(masters, labels, generator):
                images[start : start + len(drawn), 0] = drawn
                report((done + start + len(drawn)) / total)
            done += size
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, labels
    return Prepared({"fingerprint": fingerprint_of(*arrays.values())}, arrays)
