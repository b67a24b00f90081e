"""English that ships with Python: the reference text in `pydoc_data.topics` and the standard library's
docstrings.

About 2 MB of real prose, so that a first run needs no download. Docstrings are read by
`data/text/docstrings.py`; splitting, tokenising and caching: `data/text/text_splits.py`.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
from collections.abc import Container, Iterator
from pathlib import Path

from bigtrain.data.audit.texts import gist_of
from bigtrain.data.text.config import PythonDocsConfig
from bigtrain.data.text.division import Divided, divide, hashed_order
from bigtrain.data.text.docstrings import clean, cleaned_docstrings, parse, python_files
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.text.topics import held_out, says
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.tracking.status_line import status_line

_VERSION = 2  # of the cleaning
_NUMBER = re.compile(r"\d+")
_TOPICS = Path("pydoc_data", "topics.py")
_SHORTEST_REPEAT = 60  # characters of a paragraph; shorter ones are said twice by chance ("See also:")


class PythonDocs(TextSplits):
    """Data module `python_docs`. A document is one topic, or all docstrings of one module, in their order."""

    def __init__(self, config: PythonDocsConfig, tokenizer: Tokenizer | None = None):
        library = Path(sysconfig.get_path("stdlib"))
        files = python_files(library)
        stats = [(name, (library / name).stat()) for name in map(str, files)]
        listing = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        source = ["python_docs", _VERSION, sys.version, config.split, listing]
        if config.hold_out_topics:
            source.append("hold_out_topics")

        def read() -> Divided:
            left_out = held_out(library, files) if config.hold_out_topics else frozenset()
            return divide(in_memory(read_documents(library, files, left_out)), config.split)

        super().__init__(config, source, read, tokenizer)


def read_documents(library: Path, files: list[Path], left_out: Container[str] = ()) -> list[str]:
    """The cleaned documents, each docstring and each paragraph once only, shuffled by the hash of their texts.

    Topics hold each other, and modules repeat what others say: what is said twice would stand in train and in test.
    Without docstrings that say (`topics.says`) what is in `left_out`.
    """
    documents: list[str] = []
    seen: set[str] = set()
    with status_line("Reading Python's docstrings") as report:
        for number, file in enumerate(files):
            report(number / len(files))
            tree = parse(library / file)
            if tree is None:
                continue
            if file == _TOPICS:
                documents += [clean(text) for text in _topics(tree)]
                continue
            fresh = dict.fromkeys(text for text in cleaned_docstrings(tree) if text not in seen)
            if left_out:
                fresh = {text: None for text in fresh if says(text, file) not in left_out}
            seen.update(fresh)
            documents.append("\n\n".join(fresh))
    told: set[str] = set()
    documents = [document for document in (_untold(document, told) for document in documents) if document]
    return [documents[index] for index in hashed_order(documents)]


def _untold(document: str, told: set[str]) -> str:
    """The document without the paragraphs whose gist, numbers left out, is in `told`; it takes in what is left."""
    kept = []
    for paragraph in document.split("\n\n"):
        gist = _NUMBER.sub("", gist_of(paragraph)) if len(paragraph.strip()) >= _SHORTEST_REPEAT else ""
        if gist and gist in told:
            continue
        told.add(gist)
        kept.append(paragraph)
    return "\n\n".join(kept)


def _topics(tree: ast.Module) -> Iterator[str]:
    """The values of the one dictionary that topics.py assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            values = (value.value for value in node.values if isinstance(value, ast.Constant))
            yield from (value for value in values if isinstance(value, str))
