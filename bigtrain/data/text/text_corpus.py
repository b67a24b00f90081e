"""Any local text as training data: which files a path means, and the data module. How a file is read is
`data/text/documents.py`'s business; splitting, tokenising and caching are `data/text/text_splits.py`'s.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bigtrain.data.base import DataSpec
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.data.text.division import Divided, divide, given_splits
from bigtrain.data.text.documents import SUFFIXES, Corpus, Piece, read_pieces
from bigtrain.data.text.text_files import content_hash
from bigtrain.data.text.text_splits import TextSplits
from bigtrain.data.text.token_stream import TokenWindows
from bigtrain.data.tokenizers.tokenizer import Tokenizer
from bigtrain.errors import DataError


class TextCorpus:
    """Data module `text_corpus`: documents from files, a glob or a directory; see `TextCorpusConfig`.

    Raises DataError, naming file and line, for what can't be read.
    """

    def __init__(self, config: TextCorpusConfig, tokenizer: Tokenizer | None = None):
        files = _files_of_splits(config)
        hashes = {key: content_hash(paths, config.cache_dir) for key, paths in files.items()}
        source = ["text_corpus", hashes, config.split, config.text_key, config.document_separator]
        splits = TextSplits(config, source, lambda: _read_splits(config, files), tokenizer)
        self.spec: DataSpec = splits.spec
        self.tokenizer: Tokenizer = splits.tokenizer
        self.originals = splits.originals
        self._splits = splits

    def dataset(self, split: str) -> TokenWindows:
        """See `data/base.py`."""
        return self._splits.dataset(split)


def find_files(path: str, key: str) -> list[Path]:
    """The files that `path` means: itself, what a glob matches, or the text files under a directory; sorted.

    A file that is named, or matched by a glob, may have any suffix; in a directory only the known ones count,
    and names that begin with a dot are passed over. Raises DataError, naming the setting `key`, if there is
    none.
    """
    try:
        given = Path(path).expanduser()
        if given.is_dir():
            found = sorted(_text_files_under(given))
            reason = f"no file under it ends in {', '.join(SUFFIXES)}"
        elif given.exists():
            found, reason = [given], ""
        else:
            matches = glob.glob(str(given), recursive=True)  # noqa: PTH207 Path.glob takes no absolute pattern
            found = sorted(match for match in map(Path, matches) if not match.is_dir())
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
    return found


def _text_files_under(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if name.endswith(SUFFIXES) and not name.startswith(".")]
    return found


def _files_of_splits(config: TextCorpusConfig) -> dict[str, list[Path]]:
    paths = {name: getattr(config, name) for name in ("path", "train_path", "val_path", "test_path")}
    return {name: find_files(path, f"data.{name}") for name, path in paths.items() if path}


def _read_splits(config: TextCorpusConfig, files: dict[str, list[Path]]) -> Divided:
    corpora = {
        name.removesuffix("_path"): Corpus(
            partial(_read, config, paths, f"data.{name}={getattr(config, name)}"),
            sum(path.stat().st_size for path in paths),
        )
        for name, paths in files.items()
    }
    return divide(corpora["path"], config.split) if "path" in corpora else given_splits(corpora)


def _read(config: TextCorpusConfig, files: list[Path], source: str) -> Iterator[Piece]:
    pieces = (piece for file in files for piece in read_pieces(file, config.text_key, config.document_separator))
    first = next(pieces, None)
    if first is None:
        raise DataError.of(
            "DATA-EMPTY",
            f"{source} holds no text",
            cause=f"{len(files)} file(s), all of them empty or blank",
            fix="give files with text in them",
        )
    yield first
    yield from pieces
