"""WordPiece: a plain implementation agrees, training is the same everywhere, a vocab.txt is used or refused by name."""

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer, tokenizer_from_json
from bigtrain.data.tokenizers.wordpiece import SPECIAL, train_wordpiece
from bigtrain.errors import DataError

from .subword_definitions import TEXT, byte_level, sentencepiece

PROSE = "The lowest slow snow was newer than the widest window; who wasn't slower? Élan, naïve café! " * 4
UNCASED = [*SPECIAL, "[unused1]", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij"), "bad", "##ge", ".", "!"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_wordpiece([PROSE, TEXT], 400)


def tokens_of(tokenizer):
    vocab = tokenizer.to_json()["definition"]["model"]["vocab"]
    return sorted(vocab, key=vocab.get)


def plain_ids(text, vocab):
    """BERT's tokenisation of ASCII with accents, written out: lower case, marks apart, the longest piece that fits."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    words = "".join(c if c.isalnum() else " " if c.isspace() else f" {c} " for c in plain).split()
    ids = []
    for word in words:
        start, pieces = 0, []
        while start < len(word) and pieces is not None:
            ends = range(len(word), start, -1)
            fits = (("##" if start else "") + word[start:end] for end in ends)
            piece = next((piece for piece in fits if piece in vocab), None)
            pieces = None if piece is None else [*pieces, vocab[piece]]
            start += len(piece.removeprefix("##")) if piece else 0
        ids += [vocab["[UNK]"]] if pieces is None or len(word) > 100 else pieces
    return ids


WORDED = ["The", "lowest", "né", "x9", ";", "'", " ", "\n", "slowwind", "q" * 101, "É"]


@given(st.lists(st.sampled_from(WORDED)).map("".join))
@settings(deadline=None)
def test_encoding_agrees_with_a_plain_implementation(tokenizer, text):
    vocab = tokenizer.to_json()["definition"]["model"]["vocab"]
    assert tokenizer.encode(text).tolist() == plain_ids(text, vocab)


def test_ids_are_the_special_tokens_then_characters_then_pieces(tokenizer):
    tokens = tokens_of(tokenizer)
    assert tuple(tokens[:5]) == SPECIAL
    single = [token for token in tokens[5:] if len(token) == 1]
    assert tokens[5 : 5 + 2 * len(single)] == [*single, *(f"##{character}" for character in single)]
    assert single == sorted(single) and "T" not in single
    roles = {"padding": 0, "unknown": 1, "begin": 2, "separator": 3, "end_of_text": 3, "mask": 4}
    assert tokenizer.special_ids == roles and (tokenizer.end_of_text, tokenizer.unknown) == (3, 1)
    assert tokenizer.vocab_size == len(tokens) <= 400
    assert train_wordpiece([PROSE], 60).vocab_size == 60


def test_the_commonest_pair_is_merged_first():
    tokens = tokens_of(train_wordpiece(["hug hug hug hug hug pug pug pun bun"], 40))
    assert tokens[5:17] == [*"bghnpu", *(f"##{letter}" for letter in "bghnpu")]
    # ##u ##g 7 times, h ##u 5, p ##u 3, ##u ##n 2; after the first, h ##ug 5 and two pairs that occur twice
    assert tokens[17:19] == ["##ug", "hug"] and set(tokens[19:]) == {"pug", "##un"}


def test_a_large_alphabet_leaves_room_for_pieces():
    documents = ["".join(chr(0x4E00 + number) for number in range(500)) + " the the then then" * 9]
    tokenizer = train_wordpiece(documents, 300)
    single = [token for token in tokens_of(tokenizer)[5:] if len(token) == 1]
    assert len(single) == (300 - 5) // 4 and set("then") <= set(single)
    assert {"the", "then"} <= set(tokens_of(tokenizer))
    assert tokenizer.encode("\u4fff").tolist() == [1]


def test_what_looks_like_a_special_token_is_text_and_words_begin_without_a_prefix(tokenizer):
    assert not set(tokenizer.encode("a [MASK] and [SEP]").tolist()) & {2, 3, 4}
    tokens = tokens_of(tokenizer)
    assert tokenizer.begins_word().tolist() == [not token.startswith("##") for token in tokens]
    assert tokenizer.decode(tokenizer.encode("slow\nWINDOWS, too")) == "slow windows, too"


def test_other_tokenizers_know_where_words_begin_too():
    for definition, space in ((byte_level(), "Ġ"), (sentencepiece(), "▁")):
        tokenizer = SubwordTokenizer(definition, None)
        begins = {token for token, begins in zip(tokens_of(tokenizer), tokenizer.begins_word(), strict=True) if begins}
        assert begins and all(token[0] in f"{space}Ċčĉ" for token in begins)


def test_json_round_trip(tokenizer):
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again.to_json() == tokenizer.to_json() and again.special_ids == tokenizer.special_ids
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


SCRIPT = """
import json
from bigtrain.data.tokenizers.wordpiece import train_wordpiece
words = [f"{first}{last}" for first in "abcdefgh" for last in "stuvwxyz"]
print(json.dumps(train_wordpiece([" ".join(words) * 5, " ".join(words[::-1]) * 5], 60).to_json()))
"""


def test_any_process_with_any_number_of_threads_learns_the_same():
    """All pairs are equally common here: the library alone gives another vocabulary each time."""
    outputs = set()
    for threads in ("1", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", SCRIPT]
        outputs.add(subprocess.run(command, env=environment, capture_output=True, check=True, timeout=100).stdout)
    assert len(outputs) == 1


def test_a_data_module_learns_from_the_training_split_alone(tmp_path):
    (tmp_path / "train.txt").write_text(PROSE + TEXT * 3)
    (tmp_path / "val.txt").write_text("zqxj zqxj " * 50)
    paths = {f"{split}_path": str(tmp_path / f"{split}.txt") for split in ("train", "val")}
    learnt = {"tokenizer": Tokenizer.wordpiece, "vocab_size": 257, "sequence_length": 8}
    unknown = pytest.warns(UserWarning, match="of the tokens of val are unknown")
    with unknown, pytest.warns(UserWarning, match="a vocabulary of 139 tokens, not 257"):
        data = TextCorpus(TextCorpusConfig(**paths, **learnt, cache_dir=str(tmp_path / "cache")))
    assert data.tokenizer.to_json() == train_wordpiece([PROSE + TEXT * 3], 257).to_json()
    assert (data.spec.special_tokens["begin"], data.spec.mask_id) == (2, 4)
    assert data.spec.vocab_size == data.spec.num_embeddings == data.tokenizer.vocab_size


def vocabulary(tmp_path, tokens=UNCASED, config=None, ending="\n"):
    path = tmp_path / "vocab.txt"
    path.write_bytes(tokens if isinstance(tokens, bytes) else "".join(token + ending for token in tokens).encode())
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config)
    return str(path)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_vocab_txt_is_bert_s_tokenizer(tmp_path, ending):
    transformers = pytest.importorskip("transformers")
    path = vocabulary(tmp_path, ending=ending)
    tokenizer = read_tokenizer(path)
    assert tokens_of(tokenizer) == UNCASED
    assert tokenizer.special_ids["mask"] == 4 and tokenizer.end_of_text == 3
    theirs = transformers.BertTokenizer(vocab=dict(zip(UNCASED, range(len(UNCASED)), strict=True)), do_lower_case=True)
    text = "Badge faced  ÁBÇ.\tZebra! a日b"
    assert tokenizer.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    ("more", "config", "lowercase"),
    [
        ([], None, True),
        (["Bad"], None, False),
        (["Bad"], '{"do_lower_case": true}', True),
        ([], '{"do_lower_case": false, "model_max_length": 512}', False),
        ([], '{"model_max_length": 512}', True),
        (["Bad"], "[]", False),
    ],
)
def test_the_case_is_as_the_file_beside_it_says_or_as_the_tokens_are(tmp_path, more, config, lowercase):
    tokenizer = read_tokenizer(vocabulary(tmp_path, [*UNCASED, *more], config))
    assert (tokenizer.encode("BAD").tolist() == tokenizer.encode("bad").tolist()) == lowercase


def test_a_vocab_txt_without_a_separator_gets_an_end_of_text(tmp_path):
    tokenizer = read_tokenizer(vocabulary(tmp_path, ["[UNK]", "a", "##b"]))
    assert (tokenizer.end_of_text, tokenizer.vocab_size) == (3, 4)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([*UNCASED, "bad"], "lines 27 and 31 are both 'bad'"),
        (["[UNK]", "", "a"], "line 2 is empty"),
        (["[UNK]", "two words"], "line 2 is 'two words', which is no token"),
        (["[PAD]", "a"], r"it has no \[UNK\]"),
        (b"", "line 1 is empty"),
        (b"[UNK]\na\n\xff\xfe\n", "line 3 is not UTF-8"),
        (["[UNK]", *map(str, range(1 << 18))], "over 262,144 lines"),
        (["[UNK]", "x" * 2000], "its vocabulary says"),
    ],
)
def test_what_is_no_vocabulary_is_named(tmp_path, tokens, said):
    path = vocabulary(tmp_path, tokens)
    with pytest.raises(DataError, match=said) as caught:
        read_tokenizer(path)
    assert path in str(caught.value) and len(str(caught.value)) < 600


def test_a_broken_file_beside_it_is_named(tmp_path):
    with pytest.raises(DataError, match="tokenizer_config.json .* it is not JSON"):
        read_tokenizer(vocabulary(tmp_path, config="{"))
