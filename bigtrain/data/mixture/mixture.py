"""Data module `mixture`: several corpora as one, each a source of its own for the order and for evaluations.

How a corpus is read and tokenised: `data/text/`; how sources are mixed: `MixedOrder` in `data/order.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from bigtrain.data.base import SPLITS, DataModule, Dataset, DataSpec, Samples, Source
from bigtrain.data.cache import Prepared, cache_root, fingerprint_of, load_or_build
from bigtrain.data.mixture.config import MixtureConfig, SourceConfig
from bigtrain.data.originals import Original, Originals
from bigtrain.data.text.config import LEARNT_VOCAB_SIZE
from bigtrain.data.text.config import Tokenizer as TokenizerKind
from bigtrain.data.text.division import merged
from bigtrain.data.text.text_corpus import TextCorpus, source_of
from bigtrain.data.text.text_splits import fit_to_corpus
from bigtrain.data.text.tokenizing import fitted_to, given_tokenizer, warn_of_small_vocabulary
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

_FIELDS = "|".join(name for name in SourceConfig.__dataclass_fields__)


class Mixture(DataModule):
    """Windows of several corpora with one tokenizer, fitted to the training splits of all; see `MixtureConfig`.

    Sources are in the order of their names. A split has those sources that have it. Raises DataError, naming the
    source, for what can't be read.
    """

    def __init__(self, config: MixtureConfig, tokenizer: Tokenizer | None = None):
        fits = tokenizer is None
        self.tokenizer: Tokenizer = given_tokenizer(config, tokenizer) or _fit(config)
        corpora: dict[str, TextCorpus] = {}
        for name, settings in config.corpora().items():
            with _naming(name):
                corpora[name] = TextCorpus(settings, self.tokenizer)
        weights = {name: config.sources[name].weight for name in corpora}
        self._datasets = {
            split: MixedSamples(
                {name: corpus.dataset(split) for name, corpus in corpora.items() if split in corpus.spec.sizes}, weights
            )
            for split in SPLITS
            if any(split in corpus.spec.sizes for corpus in corpora.values())
        }
        if fits:
            warn_of_small_vocabulary(config, self.tokenizer)
        self.spec = DataSpec(
            kind="text",
            fingerprint=fingerprint_of([[name, weights[name], one.spec.fingerprint] for name, one in corpora.items()]),
            sizes={split: len(dataset) for split, dataset in self._datasets.items()},
            vocab_size=self.tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            special_tokens=self.tokenizer.special_ids,
            bytes_per_token=_bytes_per_token(corpora, self._datasets),
        )
        self.originals = _originals(corpora, fitted_to(config, fits))

    def dataset(self, split: str) -> Dataset:
        if split not in self._datasets:
            raise DataError.of(
                "DATA-SPLIT",
                f"there is no {split} split",
                cause=f"the splits are: {', '.join(self._datasets)}",
                fix=f"give a source one: data.split, or data.sources.<name>.{split}_path",
            )
        return self._datasets[split]


class MixedSamples(Dataset):
    """The samples of several datasets of one kind, one after the other; `weights` by name."""

    def __init__(self, datasets: Mapping[str, Dataset], weights: Mapping[str, float]):
        self._datasets = list(datasets.values())
        self._starts = np.cumsum([0, *map(len, self._datasets)])
        self.sources = tuple(Source(name, len(dataset), weights[name]) for name, dataset in datasets.items())

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, ids: np.ndarray) -> Samples:
        """See `data/base.py`. Raises IndexError for an id outside range(len(self))."""
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"sample ids must be in [0, {len(self)})")
        which = np.searchsorted(self._starts, ids, side="right") - 1
        samples: Samples = {}
        for number in np.unique(which).tolist() or [0]:
            places = np.flatnonzero(which == number)
            found = self._datasets[number].gather(ids[places] - self._starts[number])
            for name, tensor in found.items():
                if name not in samples:
                    samples[name] = torch.empty((len(ids), *tensor.shape[1:]), dtype=tensor.dtype)
                samples[name][torch.from_numpy(places)] = tensor
        return samples


def _fit(config: MixtureConfig) -> Tokenizer:
    """To the training splits of all sources, by their sizes; kept in the cache."""
    if config.tokenizer is TokenizerKind.byte:
        return ByteTokenizer(end_of_text=True)
    sources = {}
    for name, settings in config.corpora().items():
        with _naming(name):
            sources[name] = source_of(settings)
    named = [source for source, _ in sources.values()]
    key = fingerprint_of("mixture", named, config.tokenizer.value, config.vocab_size or LEARNT_VOCAB_SIZE)

    def build() -> Prepared:
        divided = []
        for name, (_, read) in sources.items():
            with _naming(name):
                divided.append(read())
        return Prepared(fit_to_corpus(config, merged(divided)).to_json(), {})

    return tokenizer_from_json(load_or_build(cache_root(config.cache_dir), "tokenizers", key, build).meta)


def _bytes_per_token(corpora: Mapping[str, TextCorpus], datasets: Mapping[str, Dataset]) -> dict[str, float]:
    """Per split, of its sources in the proportion of their weights, as losses are."""
    found = {}
    for split, dataset in datasets.items():
        total = sum(source.weight for source in dataset.sources)
        known = [(source.weight, corpora[source.name].spec.bytes_per_token.get(split)) for source in dataset.sources]
        if all(of_source is not None for _, of_source in known):
            found[split] = sum(weight * (of_source or 0.0) for weight, of_source in known) / total
    return found


def _originals(corpora: Mapping[str, TextCorpus], tokenizer: str) -> Originals:
    each = [corpus.originals for corpus in corpora.values() if corpus.originals is not None]

    def read() -> Callable[[], Iterator[Original]]:
        passes = [originals.open() for originals in each]
        return lambda: (original for each_pass in passes for original in each_pass())

    return Originals(fingerprint_of([originals.key for originals in each]), each[0].unit, read, tokenizer)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Makes what is said of the settings of a corpus name those of its source."""
    try:
        yield
    except DataError as error:
        named = lambda text: re.sub(rf"\bdata\.({_FIELDS})\b", rf"data.sources.{name}.\1", text)  # noqa: E731
        raise DataError(
            *(
                replace(one, message=f"{name}: {named(one.message)}", cause=named(one.cause), fix=named(one.fix))
                for one in error.problems
            )
        ) from error
