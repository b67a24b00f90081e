"""Settings of data made of text; torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar, Self

from bigtrain.config.kinds import DataConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.data.config import fraction_problems, one_path, path_problems, val_fraction_setting
from bigtrain.data.tables.config import EncodedConfig, TableConfig
from bigtrain.registry import DATA


class Tokenizer(Enum):
    """How text becomes tokens."""

    byte = "byte"
    char = "char"
    bpe = "bpe"
    wordpiece = "wordpiece"
    word = "word"
    file = "file"


# From the training split, as many tokens as are asked for.
LEARNT = (Tokenizer.bpe, Tokenizer.wordpiece, Tokenizer.word)
LEARNT_VOCAB_SIZE = 4096  # where vocab_size is not given
COLUMN_JOINT = " | "  # shows a model, whatever its tokenizer, where one column ends


class TooLong(Enum):
    """How a text over `sequence_length` tokens is treated."""

    truncate = "truncate"
    refuse = "refuse"


@dataclass
class TokenizedConfig(DataConfig):
    """Settings that all data made of text shares: how it becomes tokens."""

    tokenizer: Tokenizer = setting(
        Tokenizer.byte,
        "byte: UTF-8 bytes; char: the characters of the training split; bpe: pieces of words, learnt from the "
        "training split; wordpiece: likewise, in lower case, as BERT has them; word: the commonest words, as they "
        "stand between spaces; file: the one at tokenizer_path.",
    )
    vocab_size: int | None = setting(
        None,
        "Ids that tokenizer=bpe, wordpiece or word learns, all 256 bytes or the special tokens among them; "
        f"default: {LEARNT_VOCAB_SIZE}.",
        at_least=2,
        at_most=1 << 18,
    )
    tokenizer_path: str | None = setting(
        None,
        "For tokenizer=file: a tokenizer.json or vocab.txt of Hugging Face's, or the tokenizer.json of a checkpoint.",
        path=True,
    )
    cache_dir: str | None = setting(None, "Where prepared data is cached; default: the user's cache folder.", path=True)

    def problems(self) -> list[Invalid]:
        found = super().problems()
        if self.vocab_size is not None and self.tokenizer not in LEARNT:
            found.append(
                Invalid(
                    "vocab_size",
                    f"is {self.vocab_size}, but tokenizer={self.tokenizer.value} has no use for it; "
                    "leave it out, or set tokenizer=bpe, wordpiece or word",
                )
            )
        elif self.vocab_size is not None and self.vocab_size <= 256 and self.tokenizer is not Tokenizer.word:
            found.append(
                Invalid("vocab_size", f"is {self.vocab_size}; tokenizer={self.tokenizer.value} needs at least 257")
            )
        if self.tokenizer is Tokenizer.file and not self.tokenizer_path:
            found.append(
                Invalid("tokenizer_path", "is missing; with tokenizer=file, give the path of a tokenizer.json")
            )
        if self.tokenizer_path is not None and self.tokenizer is not Tokenizer.file:
            found.append(
                Invalid(
                    "tokenizer_path",
                    f"is {self.tokenizer_path!r}, but tokenizer={self.tokenizer.value} reads no file; "
                    "leave it out, or set tokenizer=file",
                )
            )
        return found

    def with_tokenizer(self, path: str) -> Self:
        """The file decides how many tokens there are."""
        return replace(self, tokenizer=Tokenizer.file, tokenizer_path=path, vocab_size=None)


@dataclass
class TextConfig(TokenizedConfig):
    """Settings of every text data module that gives windows of a long stream."""

    provides: ClassVar[str] = "text"

    sequence_length: int = setting(128, "Tokens T that the model sees at once.", at_least=1)
    split: str = setting(
        "0.9,0.05,0.05",
        "Fractions train,val,test, cut between documents (inside, if there is one only); "
        "or nanogpt: the last 10 % of the stream is validation, and there is no test split.",
    )
    attend_across_documents: bool = setting(
        True,
        "A token sees the documents before its own in the window; false: only its own (document masking, as for "
        "Llama 3).",
        before=True,
    )

    def problems(self) -> list[Invalid]:
        return super().problems() + self._split_problems()

    def _split_problems(self) -> list[Invalid]:
        if self.split == "nanogpt":
            return []
        return [Invalid(field, f"{sentence}; or nanogpt") for field, sentence in fraction_problems(self.split)]


@dataclass
class PythonDocsConfig(TextConfig):
    """English from the running Python: `pydoc_data.topics` and the standard library's docstrings."""

    hold_out_topics: bool = setting(
        False,
        "Leave out the docstrings that python_docs_topics validates and tests on (split as by default), so that a "
        "model that is finetuned on those has not read them.",
    )


@dataclass
class CorpusFiles:
    """Where a corpus is, and how documents stand in its files."""

    path: str | None = setting(
        None, "File, glob or directory to split into train, val and test; or a URL: s3://bucket/folder.", path=True
    )
    train_path: str | None = setting(None, "Own training files, instead of path.", path=True)
    val_path: str | None = setting(None, "Own validation files; default: val_fraction of train.", path=True)
    test_path: str | None = setting(None, "Own test files; default: no test split.", path=True)
    val_fraction: float | None = val_fraction_setting()
    text_key: str = setting("text", "Key of the text in each line of a .jsonl file; its column in a .parquet file.")
    document_separator: str = setting(
        "", "Line that ends a document inside a .txt file; empty: a file is one document."
    )

    def file_problems(self) -> list[Invalid]:
        """What is wrong with the paths together."""
        found = []
        if bool(self.path) == bool(self.train_path):
            found.append(one_path(self.path))
        if self.val_fraction is not None and (self.path or self.val_path):
            found.append(
                Invalid(
                    "val_fraction",
                    f"is {self.val_fraction}, but only train_path without val_path has use for it; "
                    "path is divided by data.split, such as data.split=0.8,0.1,0.1",
                )
            )
        if self.path and (self.val_path or self.test_path):
            found.append(Invalid("path", "is split by itself; give train_path instead to use val_path or test_path"))
        return found


@dataclass
class TextCorpusConfig(CorpusFiles, EncodedConfig, TextConfig):
    """Any text: a file, a glob or a directory of .txt, .txt.gz, .jsonl, .jsonl.gz, .parquet. It may be larger than
    memory; what is interrupted while it is tokenised goes on at the next start.
    """

    def problems(self) -> list[Invalid]:
        return super().problems() + self.file_problems()


class EmptyText(Enum):
    """How a text without a visible character is treated."""

    drop = "drop"
    refuse = "refuse"


@dataclass
class TextAugmentConfig:
    """Changes to training texts, drawn anew for each epoch. What marks the beginning and the end is left alone."""

    word_dropout: float = setting(0.0, "Probability that a token is left out (word dropout).", at_least=0, below=1)
    word_swap: float = setting(0.0, "Probability that two neighbouring tokens change places.", at_least=0, at_most=1)


@dataclass
class SentencesConfig(TokenizedConfig):
    """Settings that all data of labelled texts shares."""

    provides: ClassVar[str] = "sentences"
    target: ClassVar[str] = "classes"

    sequence_length: int = setting(
        128, "Tokens of the longest text allowed, the marks of its beginning and end among them.", at_least=3
    )
    too_long: TooLong = setting(TooLong.truncate, "A longer text is cut, and counted; or refuse: it is an error.")
    split: str = setting(
        "0.8,0.1,0.1",
        "Fractions train,val,test of what is not split already, of each class. Copies of a text stay together.",
    )
    augment: TextAugmentConfig = setting(TextAugmentConfig, "Changes to training texts.")

    def problems(self) -> list[Invalid]:
        return super().problems() + fraction_problems(self.split)


@dataclass
class TextClassificationConfig(TableConfig, SentencesConfig):
    """Labelled texts: TSV, CSV and the like, JSON or JSONL, plain or .gz, or Parquet; a row is a text and its label."""

    path: str | None = setting(
        None,
        "File to split into train, val and test, or directory with a file for each: train.*, dev.* (or val.*), test.*.",
        path=True,
    )
    train_path: str | None = setting(None, "Own training file, instead of path.", path=True)
    val_path: str | None = setting(None, "Own validation file; default: val_fraction of train.", path=True)
    test_path: str | None = setting(None, "Own test file; default: no test split.", path=True)
    val_fraction: float | None = val_fraction_setting()
    text_column: list[str] = setting(
        ["text"],
        "Name of the column with the text, or its position, from 1 on, if no line is a header. Several, such as "
        f"[title,text], are joined by {COLUMN_JOINT!r}.",
        one_or_more=True,
    )
    label_column: str = setting("label", "Name or position of the column with the label.")
    labels: list[str] = setting(
        [],
        "Names of the classes, in order; the files hold the names, or the numbers 0, 1, ... Empty: the labels "
        "that train has, numbers in their order, words sorted.",
    )
    empty_text: EmptyText = setting(
        EmptyText.drop, "A row without text is left out, and counted; or refuse: it is an error."
    )

    def __post_init__(self) -> None:
        if isinstance(self.text_column, str):
            self.text_column = [self.text_column]

    def problems(self) -> list[Invalid]:
        found = super().problems() + path_problems(self, "has all splits")
        found += self._column_problems()
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            found.append(Invalid("labels", f"is {list(self.labels)}; give two different names at least"))
        return found

    def with_labels(self, labels: Sequence[str]) -> Self:
        """The classes need not be those of its own training file."""
        return replace(self, labels=list(labels))

    def _column_problems(self) -> list[Invalid]:
        columns = list(self.text_column)
        if not columns:
            return [Invalid("text_column", "is []; give one column at least")]
        if len(set(columns)) < len(columns):
            return [Invalid("text_column", f"is {columns}; give each column once")]
        if self.label_column in columns:
            return [Invalid("text_column", f"and label_column are both {self.label_column!r}; they are two columns")]
        return []


@dataclass
class PythonDocsTopicsConfig(SentencesConfig):
    """Which package of the standard library does a docstring belong to? From the running Python."""


class LongPair(Enum):
    """How a pair with a side of over `sequence_length` tokens is treated."""

    truncate = "truncate"
    drop = "drop"
    refuse = "refuse"


@dataclass
class SentencePairsConfig(TableConfig, TokenizedConfig):
    """Pairs of texts, such as sentences and their translations: two aligned files for each split, or a table."""

    provides: ClassVar[str] = "pairs"

    path: str | None = setting(
        None,
        "Folder that holds train.de and train.en (plain or .gz), or train.tsv; likewise val and test. Or one table, of "
        "which val_fraction is held out.",
        path=True,
    )
    train_name: str = setting("train", "What the training files in path are called, before their ending.")
    val_name: str = setting("val", "What the validation files are called.")
    test_name: str | None = setting("test", "What the test files are called; null: no test split.")
    train_path: str | None = setting(
        None, "Instead of path: the training files, without their two endings; or a table.", path=True
    )
    val_path: str | None = setting(None, "Own validation files; default: val_fraction of train.", path=True)
    test_path: str | None = setting(None, "Own test files; default: no test split.", path=True)
    val_fraction: float | None = val_fraction_setting()
    source_language: str = setting("source", "Ending of the source's files: de; or a table's column: name or position.")
    target_language: str = setting("target", "Ending of the target's files, or a table's column.")
    tokenizer: Tokenizer = setting(
        Tokenizer.bpe,
        "One for both sides: bpe: pieces of words, learnt from the training split; byte: UTF-8 bytes; char: the "
        "characters of the training split; word: its commonest words; file: the tokenizer.json at tokenizer_path.",
    )
    sequence_length: int = setting(
        256, "Longest source or target, in tokens, with the marks of its beginning and end.", at_least=3
    )
    too_long: LongPair = setting(
        LongPair.truncate, "Pairs over that are cut, left out (drop; in every split), or an error (refuse)."
    )

    def problems(self) -> list[Invalid]:
        found = super().problems() + path_problems(self, "holds every split")
        if self.source_language == self.target_language:
            found.append(Invalid("source_language", f"and target_language are both {self.source_language!r}"))
        return found


DATA.register("python_docs", PythonDocsConfig, factory="bigtrain.data.text.python_docs:PythonDocs")
DATA.register("text_corpus", TextCorpusConfig, factory="bigtrain.data.text.text_corpus:TextCorpus")
DATA.register(
    "text_classification",
    TextClassificationConfig,
    factory="bigtrain.data.text.text_classification:TextClassification",
)
DATA.register("python_docs_topics", PythonDocsTopicsConfig, factory="bigtrain.data.text.topics:PythonDocsTopics")
DATA.register("sentence_pairs", SentencePairsConfig, factory="bigtrain.data.text.pairs:SentencePairs")
