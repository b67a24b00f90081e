"""Settings of a mixture of corpora; torch-free."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from bigtrain.config.settings import Invalid, setting
from bigtrain.data.tables.config import encoding_problems, encoding_setting
from bigtrain.data.text.config import CorpusFiles, TextConfig, TextCorpusConfig
from bigtrain.registry import DATA

MOST_SOURCES = 100


@dataclass
class SourceConfig(CorpusFiles):
    """One corpus of a mixture."""

    encoding: str | None = encoding_setting()
    weight: float = setting(
        1.0, "Its part of the training windows is weight / sum of all weights, whatever its size.", above=0
    )

    def problems(self) -> list[Invalid]:
        """What is wrong with its files."""
        return self.file_problems() + encoding_problems(self.encoding)


@dataclass
class MixtureConfig(TextConfig):
    """Several corpora, mixed by weight: data.sources.wiki.path=wiki/ data.sources.wiki.weight=0.7 and so on. Each is
    read and split as data=text_corpus would, and validated by itself too (val/wiki_loss).
    """

    sources: dict[str, SourceConfig] = setting(
        {},
        "By name, each with path (or train_path, val_path, test_path), weight, and text_key, document_separator, "
        "encoding, val_fraction as data=text_corpus has them.",
        extensible=True,
    )

    def problems(self) -> list[Invalid]:
        found = super().problems()
        if not 0 < len(self.sources) <= MOST_SOURCES:
            how = "data.sources.NAME.path=<file or folder> data.sources.NAME.weight=0.3, for each of two or more"
            found.append(Invalid("sources", f"names {len(self.sources)} corpora; give 1 to {MOST_SOURCES}: {how}"))
        found += [
            Invalid("sources", f"has the name {name!r}; allowed: letters, digits and _, with a letter first")
            for name in self.sources
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name)
        ]
        return found

    def corpora(self) -> dict[str, TextCorpusConfig]:
        """The settings of each source as those of a corpus of its own; in the order of their names."""
        shared = {field.name: getattr(self, field.name) for field in fields(TextConfig)}
        own = [field.name for field in fields(SourceConfig) if field.name != "weight"]
        return {
            name: TextCorpusConfig(**shared, **{field: getattr(source, field) for field in own})
            for name, source in sorted(self.sources.items())
        }


DATA.register("mixture", MixtureConfig, factory="bigtrain.data.mixture.mixture:Mixture")
