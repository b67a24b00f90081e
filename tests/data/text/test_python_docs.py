"""python_docs gives clean English, read without importing, the same each time."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bigtrain.data.text.config import PythonDocsConfig
from bigtrain.data.text.docstrings import clean, python_files
from bigtrain.data.text.python_docs import PythonDocs, read_documents
from bigtrain.errors import DataError


@pytest.fixture(scope="module")
def docs(shared_cache):
    return PythonDocs(PythonDocsConfig(cache_dir=shared_cache))


def test_about_two_megabytes_of_english(docs):
    tokens = {split: docs.dataset(split).num_targets for split in ("train", "val", "test")}
    assert 1_000_000 < sum(tokens.values()) < 6_000_000
    assert tokens["val"] / sum(tokens.values()) == pytest.approx(0.05, abs=0.02)
    text = docs.tokenizer.decode(docs.dataset("train").gather(np.arange(2000))["tokens"][:, :-1].numpy())
    words = text.lower().split()
    assert sum(word in {"the", "a", "of", "to", "is", "and", "in"} for word in words) / len(words) > 0.1
    assert ">>> " not in text[: len(text) // 10] and "\n\n\n\n" not in text


def test_the_second_start_reads_no_source(docs, shared_cache, monkeypatch):
    monkeypatch.setattr("bigtrain.data.text.python_docs.parse", lambda path: pytest.fail("parsed again"))
    assert PythonDocs(PythonDocsConfig(cache_dir=shared_cache)).spec == docs.spec


def test_nothing_is_imported():
    code = (
        "import sys, sysconfig; from bigtrain.data.text.python_docs import *; import bigtrain.data.text.text_splits;"
        "import rich.console, rich.status; library = Path(sysconfig.get_path('stdlib'));"
        "before = set(sys.modules);"
        "names = ('this.py', 'antigravity.py', 'topics.py');"
        "files = [file for file in python_files(library) if file.name in names];"
        "assert len(files) == 3 and read_documents(library, files);"
        "print(sorted(set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]", run.stdout


def test_tests_and_installed_packages_are_left_out(tmp_path):
    for name in ("a.py", "pkg/b.py", "test/c.py", "pkg/tests/d.py", "site-packages/e.py", "f.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert python_files(tmp_path) == [Path("a.py"), Path("pkg/b.py")]


def test_a_python_without_sources_is_an_error(tmp_path):
    with pytest.raises(DataError, match="text_corpus"):
        python_files(tmp_path)


def test_documents_are_modules_and_topics_without_repeats(tmp_path):
    long = "This sentence is long enough to be counted as prose{}."
    (tmp_path / "pydoc_data").mkdir()
    (tmp_path / "pydoc_data" / "topics.py").write_text(f"topics = {{'a': {long.format(' A')!r}, 'b': 'short'}}")
    (tmp_path / "m.py").write_text(f'"""{long.format(1)}"""\nclass C:\n    """{long.format(2)}"""\n')
    (tmp_path / "n.py").write_text(f'"""{long.format(3)}"""\ndef f():\n    """{long.format(2)}"""\n')
    (tmp_path / "bad.py").write_bytes(b"def (:\n\xff")
    (tmp_path / "deep.py").write_text("x = " + "(" * 5000 + ")" * 5000)
    documents = read_documents(tmp_path, python_files(tmp_path))
    expected = [long.format(" A"), f"{long.format(1)}\n\n{long.format(2)}", long.format(3)]
    assert sorted(documents) == sorted(expected)
    assert documents == read_documents(tmp_path, python_files(tmp_path))


def test_cleaning():
    text = """Return the thing that was asked for, or None.

        Indented example follows:   \t

            >>> thing(1)
            2


        And the text goes on, like so.
        >>> more(1)
        3
        """
    assert clean(text) == (
        "Return the thing that was asked for, or None.\n\nIndented example follows:\n\nAnd the text goes on, like so."
    )
    assert clean("Return self.") == ""
