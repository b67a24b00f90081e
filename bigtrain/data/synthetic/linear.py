"""Vectors whose values are a noisy linear map of them, or of their sines: the best possible error and R² are known.

Features are independent and standard normal. Value k is offset_k + unit_k · (w_k · f(x) + noise · ε) with ε standard
normal, and the rows w_k scaled so that w_k · f(x) has variance 1: Σ w² where f(x) = x, and Σ w² · (1 - e⁻²) / 2 where
f(x) = sin x. So on the population no model has a lower mean square error than (noise · unit_k)², nor a higher R² than
1 / (1 + noise²). Offsets and units differ, as in measured data: a model must not care.
"""

from __future__ import annotations

import math

import numpy as np

from bigtrain.data.base import SPLITS, DataModule, DataSpec
from bigtrain.data.cache import fingerprint_of
from bigtrain.data.synthetic.config import LinearValuesConfig
from bigtrain.data.synthetic.values import ValueSamples, facts_of_values
from bigtrain.data.tokenizers.tokenizer import Tokenizer

_MAP = 0  # a seed domain beside the splits', which follow
_SINE_VARIANCE = -math.expm1(-2) / 2  # of sin x, x standard normal


class LinearValues(DataModule):
    """Data module `linear`; see `LinearValuesConfig`."""

    def __init__(self, config: LinearValuesConfig, tokenizer: Tokenizer | None = None):
        generator = np.random.default_rng([config.draw_seed, _MAP])
        weights = generator.standard_normal((config.values, config.features))
        weights /= np.sqrt(np.square(weights).sum(axis=1, keepdims=True) * (_SINE_VARIANCE if config.curved else 1))
        offsets = generator.uniform(-10, 10, config.values)
        units = 10.0 ** generator.uniform(-1, 1, config.values)
        sizes = dict(zip(SPLITS, (config.train_samples, config.eval_samples, config.eval_samples), strict=True))
        self._samples = {}
        for number, (split, size) in enumerate(sizes.items(), start=1):
            generator = np.random.default_rng([config.draw_seed, number])
            vectors = generator.standard_normal((size, config.features)).astype(np.float32)
            curved = np.sin(vectors, dtype=np.float64) if config.curved else vectors.astype(np.float64)
            # Not by BLAS: its last bit may depend on the number of threads, and resuming needs the same.
            signal = np.einsum("nf,kf->nk", curved, weights)
            noise = config.noise * generator.standard_normal(signal.shape)
            self._samples[split] = ValueSamples("vectors", vectors, offsets + units * (signal + noise))
        arrays = [array for samples in self._samples.values() for array in (samples.inputs, samples.values)]
        train = self._samples["train"]
        std = train.inputs.std(axis=0, dtype=np.float64)
        self.spec = DataSpec(
            kind="vectors",
            fingerprint=fingerprint_of("linear", *arrays),
            sizes=sizes,
            input_shape=(config.features,),
            normalization={
                "mean": train.inputs.mean(axis=0, dtype=np.float64).tolist(),
                "std": np.where(std > 0, std, 1.0).tolist(),
            },
            **facts_of_values(train, tuple(f"y{index}" for index in range(config.values)), config.noise * units),
        )

    def dataset(self, split: str) -> ValueSamples:
        return self._samples[split]
