"""English that ships with Python: the reference text in `pydoc_data.topics` and the standard library's
docstrings.

Read with `ast`, never by importing: some modules act on import (`antigravity` opens a browser). About 2 MB of
real prose, so that a first run needs no download. Splitting, tokenising and caching are
`data/text/text_splits.py`'s business.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from bigtrain.data.audit.texts import gist_of
from bigtrain.data.base import DataSpec
from bigtrain.data.progress import status_line
from bigtrain.data.text.config import PythonDocsConfig
from bigtrain.data.text.division import divide, hashed_order
from bigtrain.data.text.documents import in_memory
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError

_VERSION = 2  # of the cleaning
_NUMBER = re.compile(r"\d+")
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_TOPICS = Path("pydoc_data", "topics.py")
_SHORTEST_REPEAT = 60  # characters of a paragraph; shorter ones are said twice by chance ("See also:")
_SHORTEST_CHARACTERS = 40  # below, a docstring is a label ("Return self.") and seldom a sentence
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class PythonDocs:
    """Data module `python_docs`. A document is one topic, or all docstrings of one module, in their order."""

    def __init__(self, config: PythonDocsConfig, tokenizer: Tokenizer | None = None):
        library = Path(sysconfig.get_path("stdlib"))
        files = python_files(library)
        stats = [(name, (library / name).stat()) for name in map(str, files)]
        listing = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        source = ["python_docs", _VERSION, sys.version, config.split, listing]
        read = lambda: divide(in_memory(read_documents(library, files)), config.split)  # noqa: E731
        splits = TextSplits(config, source, read, tokenizer)
        self.spec: DataSpec = splits.spec
        self.tokenizer: Tokenizer = splits.tokenizer
        self.originals = splits.originals
        self._splits = splits

    def dataset(self, split: str) -> TokenWindows:
        """See `data/base.py`."""
        return self._splits.dataset(split)


def python_files(library: Path) -> list[Path]:
    """The sources of the standard library, relative to it, sorted; without tests and installed packages."""
    found = []
    for parent, folders, names in os.walk(library):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        found += [Path(parent, name).relative_to(library) for name in names if name.endswith(".py")]
    if not found:
        raise DataError.of(
            "DATA-MISSING",
            f"there is no Python source under {library}",
            cause="this Python comes without the sources of its standard library",
            fix="use an ordinary Python, or give your own text: data=text_corpus data.path=...",
        )
    return sorted(found)


def read_documents(library: Path, files: list[Path]) -> list[str]:
    """The cleaned documents, each docstring and each paragraph once only, shuffled by the hash of their texts.

    Topics hold each other, and modules repeat what others say: what is said twice would stand in train and in test.
    """
    documents: list[str] = []
    seen: set[str] = set()
    with status_line("Reading Python's docstrings") as report:
        for number, file in enumerate(files):
            report(number / len(files))
            tree = _parse(library / file)
            if tree is None:
                continue
            if file == _TOPICS:
                documents += [clean(text) for text in _topics(tree)]
                continue
            fresh = dict.fromkeys(text for text in _cleaned_docstrings(tree) if text not in seen)
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


def clean(text: str) -> str:
    """Dedented text without doctests, trailing space and repeated blank lines; "" if too little is left.

    A paragraph that begins with `>>>` is a doctest, and so is what follows `>>>` inside a paragraph of prose.
    """
    lines = [line.rstrip() for line in inspect.cleandoc(text).splitlines()]
    paragraphs = re.split(r"\n{2,}", "\n".join(lines).strip("\n"))
    prose = (re.split(r"(?m)^\s*>>>", paragraph)[0].strip("\n") for paragraph in paragraphs)
    result = "\n\n".join(paragraph for paragraph in prose if paragraph.strip())
    return result if len(result) >= _SHORTEST_CHARACTERS and _is_unicode(result) else ""


def docstrings_of(path: Path) -> list[str]:
    """The cleaned docstrings of one source, without empty ones; none of a file that can't be parsed."""
    tree = _parse(path)
    return [] if tree is None else _cleaned_docstrings(tree)


def _parse(path: Path) -> ast.Module | None:
    """None for the odd file that is no valid Python, or can't be read: the others are text enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _cleaned_docstrings(tree: ast.Module) -> list[str]:
    return [text for text in map(clean, _docstrings(tree)) if text]


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            yield text


def _topics(tree: ast.Module) -> Iterator[str]:
    """The values of the one dictionary that topics.py assigns."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            values = (value.value for value in node.values if isinstance(value, ast.Constant))
            yield from (value for value in values if isinstance(value, str))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
