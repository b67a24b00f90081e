"""Settings of data made of text: which of them a path is, and what other data of the same kind is read with."""

import pytest

from bigtrain.data.images.config import IDXConfig
from bigtrain.data.synthetic.config import DisksConfig
from bigtrain.data.text.config import SentencePairsConfig, TextClassificationConfig, TextCorpusConfig, Tokenizer


def test_paths_are_known_by_what_they_hold():
    assert TextCorpusConfig(path="a").files() == {"all": "a"} == IDXConfig(path="a").files()
    two = TextClassificationConfig(train_path="a", test_path="a")
    assert two.files() == {"train": "a", "test": "a"}
    assert DisksConfig().files() == {}
    assert two.at("b").files() == {"all": "b"} and two.at("b", "val").files() == {"val": "b"}
    assert two.files() == {"train": "a", "test": "a"}


@pytest.mark.parametrize("kind", [TextClassificationConfig, SentencePairsConfig])
def test_a_table_is_one_split_and_a_folder_is_not(kind, tmp_path):
    config = kind(train_path="a", val_path="b", separator="tab")
    table = config.as_test_split(str(tmp_path / "c.tsv"))
    assert table.files() == {"test": str(tmp_path / "c.tsv")} and table.separator == "tab"
    assert config.as_test_split(str(tmp_path)) is None
    assert TextCorpusConfig(path="a").as_test_split("b.txt") is None


def test_a_checkpoints_labels_and_tokenizer_replace_those_of_the_settings():
    config = TextClassificationConfig(path="a", tokenizer=Tokenizer.bpe, vocab_size=300)
    known = config.with_labels(("x", "y")).with_tokenizer("t.json")
    assert known.labels == ["x", "y"] and known.problems() == []
    assert (known.tokenizer, known.tokenizer_path, known.vocab_size) == (Tokenizer.file, "t.json", None)
    images = IDXConfig(labels=["a", "b"])
    assert images.with_labels(("x", "y")) is images and images.with_tokenizer("t.json") is images
