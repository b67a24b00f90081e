"""Noise with random labels: the control experiment of what a network memorises (arXiv:1611.03530).

Pixels are uniform, labels are uniform, and neither knows of the other. So over what a model has not seen its expected
loss is at least ln C, which the uniform answer reaches exactly, and its expected accuracy is 1/C, whatever it does.
Its training loss may go to zero: all of that is memory.
"""

from __future__ import annotations

import math

import numpy as np

from bigtrain.data.base import SPLITS, DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.images.samples import ImageSamples, normalization
from bigtrain.data.splits import warn_of_missing_classes
from bigtrain.data.synthetic.config import MORE_SAMPLES, RandomLabelsConfig
from bigtrain.data.tokenizers.tokenizer import Tokenizer


class RandomLabels(DataModule):
    """Data module `random_labels`: grey images, (1, size, size) uint8."""

    def __init__(self, config: RandomLabelsConfig, tokenizer: Tokenizer | None = None):
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        shape = (1, config.size, config.size)
        arrays: list[np.ndarray] = []
        self._samples: dict[str, ImageSamples] = {}
        for number, (split, size) in enumerate(sizes.items()):
            generator = np.random.default_rng([config.draw_seed, number])
            images = generator.integers(256, size=(size, *shape), dtype=np.uint8)
            labels = generator.integers(config.classes, size=size, dtype=np.uint8)
            self._samples[split] = ImageSamples(images, labels)
            arrays += [images, labels]
        names = tuple(map(str, range(config.classes)))
        warn_of_missing_classes(
            names, {split: samples.labels for split, samples in self._samples.items()}, MORE_SAMPLES
        )
        self.spec = DataSpec(
            kind="images",
            fingerprint=fingerprint_of("random_labels", config.classes, *arrays),
            sizes=sizes,
            input_shape=shape,
            num_classes=config.classes,
            labels=names,
            normalization=normalization(self._samples["train"]),
            optimal_loss=math.log(config.classes),
            optimal_accuracy=1 / config.classes,
        )

    def dataset(self, split: str) -> ImageSamples:
        return self._samples[split]
