"""Which package of the standard library does a docstring belong to? Texts and labels from the running Python, as
`data/text/docstrings.py` reads them; tokenising and caching: `data/text/sentences.py`.

Three things would give the answer away, or make it a matter of luck. The package's own name is cut out of the text,
also where it is part of a longer word. Texts that differ only in case, digits, punctuation or space count as one, so
that none is in train and in test. One that several packages share ("Return self.") belongs to none, and is left out.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

from bigtrain.data.text.class_division import LabelledText, divide_by_class, fractions_of
from bigtrain.data.text.config import PythonDocsTopicsConfig
from bigtrain.data.text.docstrings import docstrings_of, python_files
from bigtrain.data.text.sentences import LabelledSplits, SentenceSplits
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.tracking.status_line import status_line

PACKAGES = 16  # those with the most docstrings
_VERSION = 1  # of the cleaning
_MASK = "_"  # in place of the package's name


class PythonDocsTopics(SentenceSplits):
    """Data module `python_docs_topics`."""

    def __init__(self, config: PythonDocsTopicsConfig, tokenizer: Tokenizer | None = None):
        library = Path(sysconfig.get_path("stdlib"))
        files = python_files(library)
        stats = [(name, (library / name).stat()) for name in map(str, files)]
        listing = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        source = ["python_docs_topics", _VERSION, sys.version, config.split, listing]
        super().__init__(config, source, lambda: _read(library, files, config.split), tokenizer)


def _read(library: Path, files: list[Path], split: str) -> LabelledSplits:
    owners: dict[str, set[str]] = {}  # what a text says → the packages that say it
    texts: dict[str, tuple[str, str]] = {}  # what it says → the first text that says it, and its file
    with status_line("Reading Python's docstrings") as report:
        for number, file in enumerate(files):
            report(number / len(files))
            package = package_of(file)
            if package.startswith("_"):
                continue
            for text in docstrings_of(library / file):
                masked = without_name(text, package)
                owners.setdefault(gist(masked), set()).add(package)
                texts.setdefault(gist(masked), (masked, str(file)))
    owner = {key: next(iter(packages)) for key, packages in owners.items() if key and len(packages) == 1}
    names = sorted(name for name, _ in Counter(owner.values()).most_common(PACKAGES))
    labelled = [
        LabelledText(texts[key][0], names.index(package), texts[key][1])
        for key, package in owner.items()
        if package in names
    ]
    return LabelledSplits(divide_by_class(labelled, fractions_of(split), f"data.split={split}"), tuple(names))


def package_of(file: Path) -> str:
    """The package that a source, relative to the library, belongs to."""
    return file.parts[0].removesuffix(".py")


def held_out(library: Path, files: list[Path]) -> frozenset[str]:
    """What the docstrings say that are validated and tested on, where they are split as by default."""
    splits = _read(library, files, PythonDocsTopicsConfig().split).splits
    return frozenset(gist(labelled.text) for split in ("val", "test") for labelled in splits[split])


def says(text: str, file: Path) -> str:
    """What a docstring says, its package's name left out: equal for those that count as one."""
    return gist(without_name(text, package_of(file)))


def without_name(text: str, package: str) -> str:
    """The text with "_" wherever the package's name stood, in any case."""
    return re.sub(re.escape(package), _MASK, text, flags=re.IGNORECASE)


def gist(text: str) -> str:
    """What a text says: its letters, in lower case."""
    return "".join(filter(str.isalpha, text.lower()))
