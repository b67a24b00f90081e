"""Generated text is printed in whole characters, and in all it is what the ids decode to."""

import numpy as np
import pytest
from data.tokenizers.subword_definitions import TEXT, bert, byte_level, metaspace, sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer
from bigtrain.tasks.generation import text_pieces

TOKENIZERS = {
    "byte": ByteTokenizer(True),
    "char": CharTokenizer("abc é日", True, True),
    "bpe": train_bpe([TEXT], 300, True),
    "gpt2": SubwordTokenizer(byte_level(), "<|endoftext|>"),
    "bert": SubwordTokenizer(bert(), "[SEP]"),
    "sentencepiece": SubwordTokenizer(sentencepiece(), "</s>"),
    "metaspace": SubwordTokenizer(metaspace(), "</s>"),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_pieces_join_to_what_the_ids_add(data):
    tokenizer = TOKENIZERS[data.draw(st.sampled_from(sorted(TOKENIZERS)))]
    ids = st.integers(0, tokenizer.vocab_size - 1).filter(lambda number: number != tokenizer.end_of_text)
    context = tokenizer.encode(data.draw(st.text("abc é日", min_size=1, max_size=20))).tolist()
    new = data.draw(st.lists(ids, max_size=20))
    if tokenizer is TOKENIZERS["sentencepiece"]:  # its decoder gives up a whole run of bytes, printed or not, for one
        new = tokenizer.encode(data.draw(st.text("the cat\n日é", max_size=20))).tolist()
    whole, known = (tokenizer.decode(np.array(ids, dtype=np.int64)) for ids in (context + new, context))
    assert "".join(text_pieces(tokenizer, context, new)) == whole[len(known) :]


def test_a_character_of_several_tokens_waits_for_its_last():
    tokenizer = TOKENIZERS["byte"]
    assert list(text_pieces(tokenizer, [97], list("b日c".encode()))) == ["b", "日", "c"]
    assert list(text_pieces(tokenizer, [97], list("日".encode())[:2])) == ["\ufffd"]


def test_after_the_end_of_another_text_nothing_is_printed_first(tokenizer):
    ids = tokenizer.encode("a c")
    assert "".join(text_pieces(tokenizer, [tokenizer.end_of_text], ids.tolist())) == tokenizer.decode(ids)
