"""The docstrings of the running Python's standard library, cleaned: what both data modules on them read.

Read with `ast`, never by importing: some modules act on import (`antigravity` opens a browser).
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from bigtrain.errors import DataError

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
_SHORTEST_CHARACTERS = 40  # below, a docstring is a label ("Return self.") and seldom a sentence
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


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
    tree = parse(path)
    return [] if tree is None else cleaned_docstrings(tree)


def parse(path: Path) -> ast.Module | None:
    """None for the odd file that is no valid Python, or can't be read: the others are text enough."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def cleaned_docstrings(tree: ast.Module) -> list[str]:
    """Of a parsed source, without empty ones."""
    return [text for text in map(clean, _docstrings(tree)) if text]


def _docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (text := ast.get_docstring(node, clean=False)):
            yield text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
