"""Any local text as training data: which files a path means, and the data module. How a file is read:
`data/text/documents.py`; splitting, tokenising and caching: `data/text/text_splits.py`.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bigtrain.data.config import VAL_FRACTION
from bigtrain.data.paths import dangling_link, list_files, require_target, warn_of_repeated
from bigtrain.data.remote import fetch, is_remote
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.division import Divided, divide, given_splits, join
from bigtrain.data.text.documents import SUFFIXES, Corpus, Piece, read_pieces
from bigtrain.data.text.text_files import FileState, content_hash, require_unchanged
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError


class TextCorpus(TextSplits):
    """Data module `text_corpus`: documents from files, a glob or a directory; see `TextCorpusConfig`.

    Raises DataError, naming file and line, for what can't be read.
    """

    def __init__(self, config: TextCorpusConfig, tokenizer: Tokenizer | None = None):
        source, read = source_of(config)
        if not config.path and not config.val_path:
            warnings.warn(
                f"there is no val_path: {_val_fraction(config):g} of train is held out for val (data.val_fraction)",
                stacklevel=2,
            )
        super().__init__(config, source, read, tokenizer)


def source_of(config: TextCorpusConfig) -> tuple[list[Any], Callable[[], Divided]]:
    """All that the texts of a corpus depend on, in JSON's types; and a function that divides them into splits.

    Raises DataError for files that are not there.
    """
    files = _files_of_splits(config)
    states = {path: FileState.of(path) for paths in files.values() for path in paths}
    hashes = {key: content_hash(paths, config.cache_dir) for key, paths in files.items()}
    source: list[Any] = ["text_corpus", hashes, config.split, config.text_key, config.document_separator]
    source += [named for named in (config.encoding, config.val_fraction) if named is not None]
    return source, lambda: _read_splits(config, files, states)


def find_files(path: str, key: str, cache_dir: str | None = None) -> list[Path]:
    """The files that `path` means: itself, what a glob matches, or the text files under a directory, linked ones too;
    sorted, each once. Of a URL, their copies in the cache.

    A file that is named, or matched by a glob, may have any suffix; in a directory only the known ones count,
    and names that begin with a dot are passed over. Raises DataError, naming the setting `key`, if there is
    none, and for a link that points nowhere.
    """
    path = path.removeprefix("file://")
    if is_remote(path):
        return fetch(path, key, lambda name: name.endswith(SUFFIXES), cache_dir)
    try:
        given = Path(path).expanduser()
        if given.is_dir():
            found = _text_files_under(given)
            reason = f"no file under it ends in {', '.join(SUFFIXES)}"
        elif given.exists() or given.is_symlink():
            found, reason = [given], ""
        else:
            matches = glob.glob(str(given), recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
            found = _each_once(given, sorted(match for match in map(Path, matches) if not match.is_dir()))
            reason = f"no such file or directory, seen from {Path.cwd()}"
    except OSError as error:
        found, reason = [], error.strerror or str(error)
    except (ValueError, RuntimeError) as error:  # a NUL inside; the home of an unknown user
        found, reason = [], str(error)
    if not found:
        raise DataError.of(
            "DATA-MISSING",
            f"{key}={path} gives no text",
            cause=reason,
            fix=f"give {key} a text file, a directory of text files, or a quoted glob: '{key}=books/*.txt'",
        )
    for file in found:
        require_target(file)
    return found


def _text_files_under(folder: Path) -> list[Path]:
    listing = list_files(folder, wants=lambda name: name.endswith(SUFFIXES))
    for link in listing.dangling:
        if link.name.endswith(SUFFIXES):
            raise dangling_link(link)
        warnings.warn(f"{link} is a link that leads nowhere, and is passed over", stacklevel=4)
    warn_of_repeated(folder, listing.repeated)
    return listing.files


def _each_once(pattern: Path, files: list[Path]) -> list[Path]:
    """Without those that are another name of an earlier one."""
    first: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (file.is_symlink(), file)):
        first.setdefault(os.path.realpath(file), file)
    kept = sorted(first.values())
    warn_of_repeated(pattern, sorted(set(files) - set(kept)))
    return kept


def _files_of_splits(config: TextCorpusConfig) -> dict[str, list[Path]]:
    paths = {name: getattr(config, name) for name in ("path", "train_path", "val_path", "test_path")}
    return {name: find_files(path, f"data.{name}", config.cache_dir) for name, path in paths.items() if path}


def _read_splits(config: TextCorpusConfig, files: dict[str, list[Path]], states: dict[Path, FileState]) -> Divided:
    corpora = {
        name.removesuffix("_path"): Corpus(
            partial(_read, config, paths, f"data.{name}={getattr(config, name)}", states),
            sum(states[path].size_bytes for path in paths),
            tuple(states[path] for path in paths),
        )
        for name, paths in files.items()
    }
    if "path" in corpora:
        return divide(corpora["path"], config.split)
    if "val" in corpora:
        return given_splits(corpora)
    fraction = _val_fraction(config)
    divided = divide(corpora.pop("train"), f"{1 - fraction},{fraction},0", "train, val, test")
    return join(divided, given_splits(corpora)) if corpora else divided


def _val_fraction(config: TextCorpusConfig) -> float:
    return config.val_fraction or VAL_FRACTION


def _read(config: TextCorpusConfig, files: list[Path], source: str, states: dict[Path, FileState]) -> Iterator[Piece]:
    is_empty = True
    for file in files:
        for piece in read_pieces(file, config.text_key, config.document_separator, config.encoding):
            is_empty = False
            yield piece
        require_unchanged([states[file]])
    if is_empty:
        raise DataError.of(
            "DATA-EMPTY",
            f"{source} holds no text",
            cause=f"{len(files)} file(s), all of them empty or blank",
            fix="give files with text in them",
        )
