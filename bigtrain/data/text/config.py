"""Settings of data made of text; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import setting
from bigtrain.registry import DATA


class Tokenizer(Enum):
    """How text becomes tokens."""

    byte = "byte"
    char = "char"
    bpe = "bpe"
    file = "file"


BPE_VOCAB_SIZE = 4096  # where vocab_size is not given


@dataclass
class TextConfig(DataConfig):
    """Settings that every text data module shares."""

    provides: ClassVar[str] = "text"

    tokenizer: Tokenizer = setting(
        Tokenizer.byte,
        "byte: UTF-8 bytes; char: the characters of the training split; bpe: pieces of words, learnt from the "
        "training split; file: the tokenizer.json at tokenizer_path.",
    )
    vocab_size: int | None = setting(
        None,
        f"Ids that tokenizer=bpe learns, all 256 bytes and end of text among them; default: {BPE_VOCAB_SIZE}.",
        at_least=257,
        at_most=1 << 18,
    )
    tokenizer_path: str | None = setting(
        None, "For tokenizer=file: a tokenizer.json of Hugging Face's, or of a checkpoint of ours.", path=True
    )
    sequence_length: int = setting(128, "Tokens T that the model sees at once.", at_least=1)
    split: str = setting(
        "0.9,0.05,0.05",
        "Fractions train,val,test, cut between documents (inside, if there is one only); "
        "or nanogpt: the last 10 % of the stream is validation, and there is no test split.",
    )
    cache_dir: str | None = setting(None, "Where prepared data is cached; default: the user's cache folder.", path=True)

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if self.vocab_size is not None and self.tokenizer is not Tokenizer.bpe:
            found.append(
                f"vocab_size is {self.vocab_size}, but tokenizer={self.tokenizer.value} has no use for it; "
                "leave it out, or set tokenizer=bpe"
            )
        if self.tokenizer is Tokenizer.file and not self.tokenizer_path:
            found.append("tokenizer_path is missing; with tokenizer=file, give the path of a tokenizer.json")
        if self.tokenizer_path is not None and self.tokenizer is not Tokenizer.file:
            found.append(
                f"tokenizer_path is {self.tokenizer_path!r}, but tokenizer={self.tokenizer.value} reads no file; "
                "leave it out, or set tokenizer=file"
            )
        return found + self._split_problems()

    def _split_problems(self) -> list[str]:
        if self.split == "nanogpt":
            return []
        try:
            fractions = [float(part) for part in self.split.split(",")]
        except ValueError:
            fractions = []
        train_and_val = len(fractions) == 3 and all(part > 0 for part in fractions[:2])
        if not train_and_val or not fractions[2] >= 0 or not abs(sum(fractions) - 1) <= 1e-6:
            return [
                f"split is {self.split!r}; allowed: three fractions train,val,test that add up to 1, train "
                "and val above 0, for instance 0.9,0.05,0.05; or nanogpt"
            ]
        return []


@dataclass
class PythonDocsConfig(TextConfig):
    """English from the running Python: `pydoc_data.topics` and the standard library's docstrings."""


@dataclass
class TextCorpusConfig(TextConfig):
    """Any local text: a file, a glob or a directory of .txt, .txt.gz, .jsonl, .jsonl.gz."""

    path: str | None = setting(None, "File, glob or directory to split into train, val and test.", path=True)
    train_path: str | None = setting(None, "Own training files, instead of path.", path=True)
    val_path: str | None = setting(None, "Own validation files.", path=True)
    test_path: str | None = setting(None, "Own test files; default: no test split.", path=True)
    text_key: str = setting("text", "Key of the text in each line of a .jsonl file.")
    document_separator: str = setting(
        "", "Line that ends a document inside a .txt file; empty: a file is one document."
    )

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = super().problems()
        if bool(self.path) == bool(self.train_path):
            found.append(f"path is {self.path!r} and train_path is {self.train_path!r}; give exactly one of the two")
        if self.train_path and not self.val_path:
            found.append("val_path is missing; with train_path, give val_path too")
        if self.path and (self.val_path or self.test_path):
            found.append("path is split by itself; give train_path instead to use val_path or test_path")
        return found


DATA.register("python_docs", PythonDocsConfig, factory="bigtrain.data.text.python_docs:PythonDocs")
DATA.register("text_corpus", TextCorpusConfig, factory="bigtrain.data.text.text_corpus:TextCorpus")
