"""Data made of texts, of any kind, in four steps: read → split → tokenise → store.

What a kind has of its own are its arrays of tokens, the dataset over them, and the facts that its DataSpec has beside
the common ones: windows of one long text (`text_splits.py`), labelled texts (`sentences.py`), pairs of texts
(`pairs.py`). A data module is a kind with a source: it names what its texts depend on and gives a function that reads
them.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from bigtrain.config.kinds import Audit
from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.data.cache import Prepared, fingerprint_of
from bigtrain.data.originals import Original, Originals, ReadOnce
from bigtrain.data.text.config import SentencePairsConfig, SentencesConfig, TextConfig
from bigtrain.data.text.tokenizing import (
    find_or_prepare,
    fitted_to,
    given_tokenizer,
    warn_of_small_vocabulary,
    warn_of_unknown,
)
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.errors import DataError

Config = TextConfig | SentencesConfig | SentencePairsConfig
Texts = TypeVar("Texts")
Samples = TypeVar("Samples", bound=Dataset)


class TokenizedSplits(DataModule, Generic[Texts, Samples]):
    """The token datasets of each split, their DataSpec and tokenizer.

    `source` names everything that `read` depends on: it is hashed into the key of the cache, and never leaves the
    machine. `read` gives the texts of all splits, and is called only where the cache has not got their tokens. A given
    `tokenizer`, or the one that the settings name a file of, is used as it is; otherwise one is fitted to the training
    split. Raises DataError for texts that can't be used.
    """

    kind: ClassVar[str]  # of the DataSpec; also the folder in the cache
    unit: ClassVar[str]  # what the audit calls a text
    version: ClassVar[int]  # of what is made of a source; part of every key of the cache
    split_fix: ClassVar[str]  # how to come by a split that is not there

    def __init__(self, config: Config, source: Any, read: Callable[[], Texts], tokenizer: Tokenizer | None) -> None:
        fits = tokenizer is None
        tokenizer = given_tokenizer(config, tokenizer)
        texts = ReadOnce(read, keep=config.audit is not Audit.off)
        self.config = config
        prepared = self.find_or_prepare([self.version, source], texts, tokenizer)
        self.tokenizer: Tokenizer = tokenizer or tokenizer_from_json(prepared.meta["tokenizer"])
        self._datasets = self.datasets(prepared)
        self.spec = DataSpec(
            kind=self.kind,
            sizes={split: len(dataset) for split, dataset in self._datasets.items()},
            vocab_size=self.tokenizer.vocab_size,
            sequence_length=config.sequence_length,
            special_tokens=self.tokenizer.special_ids,
            **{"fingerprint": prepared.meta["fingerprint"], **self.facts(prepared)},
        )
        self.originals = Originals(
            key=fingerprint_of(self.version, source),
            unit=self.unit,
            open=lambda: self.passes(texts.again()),
            tokenizer=fitted_to(config, fits),
            cut=self.cut(prepared),
        )
        if fits:
            warn_of_small_vocabulary(config, self.tokenizer)
        warn_of_unknown(prepared.meta.get("unknown", {}), self.tokenizer)
        for note in self.notes(prepared):
            warnings.warn(note, stacklevel=2)

    def dataset(self, split: str) -> Samples:
        if split not in self._datasets:
            raise DataError.of(
                "DATA-SPLIT",
                f"there is no {split} split",
                cause=f"the splits are: {', '.join(self._datasets)}",
                fix=self.split_fix.format(split=split),
            )
        return self._datasets[split]

    def find_or_prepare(self, source: Any, read: Callable[[], Texts], tokenizer: Tokenizer | None) -> Prepared:
        """From the cache; or read, tokenised and stored there."""
        source = [*source, *self.keyed_by()]
        return find_or_prepare(self.kind, self.config, source, lambda fitted: self.prepare(read(), fitted), tokenizer)

    def keyed_by(self) -> list[Any]:
        """Settings, beside the source and the tokenizer, that the arrays depend on."""
        return []

    @abstractmethod
    def prepare(self, texts: Texts, tokenizer: Tokenizer | None) -> Prepared:
        """Arrays of tokens, with `tokenizer` (its JSON) and `fingerprint` in `meta`. None: fit one."""

    @abstractmethod
    def datasets(self, prepared: Prepared) -> Mapping[str, Samples]:
        """The dataset of each split that there is."""

    @abstractmethod
    def passes(self, texts: Texts) -> Callable[[], Iterator[Original]]:
        """A function, each call of which is a pass over the texts as they were read."""

    def facts(self, prepared: Prepared) -> dict[str, Any]:
        """Fields of the DataSpec beside those that all kinds have."""
        return {}

    def cut(self, prepared: Prepared) -> dict[str, int]:
        """Per split, texts that were cut to the longest allowed."""
        return {}

    def notes(self, prepared: Prepared) -> Iterable[str]:
        """Sentences for the user about texts that were changed or left out."""
        return ()
