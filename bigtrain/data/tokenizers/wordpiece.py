"""BERT's WordPiece (arXiv:1609.08144; arXiv:1810.04805): trained by Hugging Face's `tokenizers`, or from a vocab.txt.

Words are cut at spaces and around marks, in lower case and without accents if wished; a piece that goes on with a word
begins with "##", and the longest piece that fits is taken. The result is a `SubwordTokenizer`. As in that library, what
is learnt are the commonest pairs of pieces, as by a BPE, not those that Google's unpublished measure ranks first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bigtrain.data.tokenizers.subword import SubwordTokenizer, learn, pieces_of
from bigtrain.data.tokenizers.subword_definition import MAX_VOCABULARY, unusable

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
UNKNOWN, END_OF_TEXT = "[UNK]", "[SEP]"
_PREFIX = "##"
_LEAST_COUNT = 2  # a pair of pieces that occurs once is no pattern
_MAX_WORD_CHARACTERS = 100  # a longer word is unknown, as in BERT


def train_wordpiece(documents: Sequence[str], vocab_size: int) -> SubwordTokenizer:
    """At most `vocab_size` ids: `SPECIAL`, the characters, the same within words, then pieces in the order learnt.

    Fewer where the documents hold no more pairs that repeat. The characters are the commonest, half of the vocabulary
    at most. The same documents give the same tokeniser, on any number of threads.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    rust = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    rust.normalizer = normalizers.BertNormalizer(lowercase=True)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for piece in pieces_of(documents):
        counts.update(rust.normalizer.normalize_str(piece))
    commonest = sorted((character for character in counts if not character.isspace()), key=lambda c: (-counts[c], c))
    characters = sorted(commonest[: (vocab_size - len(SPECIAL)) // 4])
    # Given before: left to itself, the library numbers the pieces of one character in the order of a hash table, anew
    # in each process, and breaks ties between pairs by those numbers.
    given = [*SPECIAL, *characters, *(_PREFIX + character for character in characters)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=_LEAST_COUNT,
        special_tokens=given,
        limit_alphabet=len(characters),
        initial_alphabet=characters,
        continuing_subword_prefix=_PREFIX,
        show_progress=False,
    )
    learn(rust, trainer, documents)
    vocab = rust.get_vocab()
    return SubwordTokenizer(wordpiece_definition(sorted(vocab, key=vocab.__getitem__), lowercase=True), END_OF_TEXT)


def wordpiece_definition(tokens: Sequence[str], *, lowercase: bool) -> dict[str, Any]:
    """What a tokenizer.json of BERT's would say of these tokens, in the order of their ids."""
    vocab = {token: number for number, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": vocab[name], "content": name, **flags} for name in SPECIAL if name in vocab],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,  # as lowercase
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": _PREFIX,
            "max_input_chars_per_word": _MAX_WORD_CHARACTERS,
            "vocab": vocab,
        },
    }


def vocabulary_of(data: bytes, source: str) -> list[str]:
    """The tokens of a vocab.txt, one a line. Raises DataError, naming `source` and the line, for what can't be one."""
    if data.count(b"\n") > MAX_VOCABULARY:
        raise unusable(source, f"it has over {MAX_VOCABULARY:,} lines")
    try:
        # Not splitlines(): some vocabularies have a token for a line separator of Unicode's.
        tokens = [line.removesuffix("\r") for line in data.decode("utf-8").removesuffix("\n").split("\n")]
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise unusable(source, f"line {line} is not UTF-8", "give the path of a vocab.txt") from None
    lines: dict[str, int] = {}
    for number, token in enumerate(tokens, start=1):
        if not token or " " in token or "\t" in token:
            reason = f"line {number} is {'empty' if not token else f'{token[:40]!r}'}, which is no token"
            raise unusable(source, reason, "give the path of a vocab.txt: one token a line")
        if token in lines:
            raise unusable(source, f"lines {lines[token]} and {number} are both {token[:40]!r}")
        lines[token] = number
    if UNKNOWN not in lines:
        raise unusable(source, f"it has no {UNKNOWN}, which stands for what no token fits")
    return tokens


def is_lowercase(tokens: Sequence[str]) -> bool:
    """Whether no token, special ones left out, has one of A to Z."""
    words = (token for token in tokens if not (token.startswith("[") and token.endswith("]")))
    return not any("A" <= character <= "Z" for token in words for character in token)
