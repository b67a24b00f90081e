"""Word-level vocabularies: the commonest words of the training split, the same everywhere."""

import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.text.config import TextClassificationConfig, TextCorpusConfig, Tokenizer
from bigtrain.data.text.text_classification import TextClassification
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.data.tokenizers.tokenizer_file import tokenizer_from_json
from bigtrain.data.tokenizers.wordlevel import train_wordlevel

TEXT = "b a , a b the The once <unk> N <unk> N the <unk>\n the\tc c "


def test_ids_are_the_unknown_then_words_by_frequency_then_the_end():
    tokenizer = train_wordlevel([TEXT, TEXT.replace("once", "twice")], 9, end_of_text=True)
    ids = tokenizer.to_json()["definition"]["model"]["vocab"]
    # <unk> and the 6 times, the rest 4 times (in order of their characters), "," and The twice
    assert ids == {"[UNK]": 0, "<unk>": 1, "the": 2, "N": 3, "a": 4, "b": 5, "c": 6, ",": 7}
    assert (tokenizer.unknown, tokenizer.end_of_text, tokenizer.vocab_size) == (0, 8, 9)
    assert tokenizer.encode("the once\u3000<unk> a, zebra").tolist() == [2, 0, 1, 0, 0]
    assert tokenizer.decode(tokenizer.encode("the  N\n<unk>")) == "the N <unk>"
    assert tokenizer_from_json(tokenizer.to_json()).to_json() == tokenizer.to_json()


def test_words_that_occur_once_are_unknown():
    tokenizer = train_wordlevel(["a a b"], 100, end_of_text=False)
    assert tokenizer.encode("a b").tolist() == [1, 0] and tokenizer.end_of_text is None


def test_a_corpus_is_read_by_words(tmp_path):
    (tmp_path / "train.txt").write_text("the cat sat . the dog sat . " * 30)
    (tmp_path / "val.txt").write_text("the zebra sat . " * 20)
    paths = {f"{split}_path": str(tmp_path / f"{split}.txt") for split in ("train", "val")}
    settings = {"tokenizer": Tokenizer.word, "sequence_length": 8, "cache_dir": str(tmp_path / "cache")}
    unknown = pytest.warns(UserWarning, match="25.00% of the tokens of val are unknown")
    with unknown, pytest.warns(UserWarning, match="6 tokens, not 4,096: no more words repeat"):
        data = TextCorpus(TextCorpusConfig(**paths, **settings))
    assert data.spec.vocab_size == 6 and data.spec.special_tokens == {"unknown": 0}
    with unknown:
        again = TextCorpus(TextCorpusConfig(**paths, **settings, vocab_size=6))
    assert again.tokenizer.to_json() == data.tokenizer.to_json()


def test_labelled_texts_are_framed(tmp_path):
    rows = [f"the {word} sat{' on' * times}\t{word}" for word in ("cat", "dog") for times in range(20)]
    (tmp_path / "texts.tsv").write_text("text\tlabel\n" + "\n".join(rows))
    settings = {"tokenizer": Tokenizer.word, "vocab_size": 7, "cache_dir": str(tmp_path / "cache")}
    data = TextClassification(TextClassificationConfig(path=str(tmp_path / "texts.tsv"), **settings))
    tokens = data.dataset("train").gather([0])["tokens"][0].tolist()
    assert tokens[0] == tokens[-1] == data.tokenizer.end_of_text == 6 and 0 not in tokens


@pytest.mark.parametrize(("kind", "size", "fine"), [("word", 2, True), ("bpe", 256, False), ("wordpiece", 30, False)])
def test_a_vocabulary_of_words_may_be_small(kind, size, fine):
    config = TextCorpusConfig(path="x", tokenizer=Tokenizer[kind], vocab_size=size)
    problems = [problem.message for problem in find_problems(config, "data")]
    assert problems == ([] if fine else [f"data.vocab_size is {size}; tokenizer={kind} needs at least 257"])
