"""Labelled texts from files: the samples, the names of the classes, the splits, and what is refused or said."""

import warnings

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.text.config import EmptyText, TextAugmentConfig, TextClassificationConfig, Tokenizer, TooLong
from bigtrain.data.text.sentences import LabelledText, divide_by_class
from bigtrain.data.text.text_classification import TextClassification
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer
from bigtrain.errors import DataError

TRAIN = [("good", 1), ("bad", 0), ("great fun", 1), ("dull", 0)]


def write(path, rows, header="text\tlabel\n"):
    path.write_text(header + "".join(f"{text}\t{label}\n" for text, label in rows), encoding="utf-8")
    return path


def build(tmp_path, given=None, **settings):
    """Of tmp_path/data, a folder, where no other files are named."""
    if not {"path", "train_path", "test_path"} & set(settings):
        settings["path"] = str(tmp_path / "data")
    config = TextClassificationConfig(cache_dir=str(tmp_path / "cache"), **settings)
    return TextClassification(config, given)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/train.tsv", TRAIN)
    write(tmp_path / "data/dev.tsv", [("so good", 1), ("dull", 0)])
    write(tmp_path / "data/test.tsv", [("bad", 0), ("good", 1), ("good", 1)])
    return tmp_path / "data"


def texts_of(data, split):
    samples = data.dataset(split).gather(np.arange(data.spec.sizes[split]))
    rows = zip(samples["tokens"], samples["lengths"], samples["labels"], strict=True)
    return [(data.tokenizer.decode(row[1 : length - 1].numpy()), int(label)) for row, length, label in rows]


def test_a_folder_gives_its_splits_framed_and_padded(tmp_path, folder):
    data = build(tmp_path)
    assert data.spec.sizes == {"train": 4, "val": 2, "test": 3}
    assert (data.spec.kind, data.spec.num_classes, data.spec.labels) == ("sentences", 2, ("0", "1"))
    assert texts_of(data, "train") == TRAIN
    samples = data.dataset("train").gather(np.array([1, 2]))
    end = data.tokenizer.end_of_text
    assert samples["tokens"].tolist() == [[end, *b"bad", end, *[0] * 6], [end, *b"great fun", end]]
    assert samples["lengths"].tolist() == [5, 11] == data.dataset("train").lengths[[1, 2]].tolist()


@pytest.mark.parametrize("kind", [Tokenizer.byte, Tokenizer.char, Tokenizer.bpe])
@pytest.mark.filterwarnings("ignore:the training text gives a vocabulary")
def test_every_tokenizer_gives_the_texts_back(tmp_path, folder, kind):
    for data in (build(tmp_path, tokenizer=kind), build(tmp_path, tokenizer=kind)):  # built, and from the cache
        assert texts_of(data, "test") == [("bad", 0), ("good", 1), ("good", 1)]
        assert data.spec.special_tokens["end_of_text"] is not None


def test_a_given_tokenizer_is_used_as_it_is(tmp_path, folder):
    given = ByteTokenizer(end_of_text=True)
    data = build(tmp_path, given, tokenizer=Tokenizer.char)
    assert data.tokenizer is given and texts_of(data, "train") == TRAIN


@pytest.mark.parametrize(
    ("labels", "settings", "names", "numbers"),
    [
        (["pos", "neg", "pos", "neg"], {}, ("neg", "pos"), [1, 0, 1, 0]),
        (["10", "9", "10", "9"], {}, ("9", "10"), [1, 0, 1, 0]),
        (["-1", "1", "-1", "1"], {}, ("-1", "1"), [0, 1, 0, 1]),
        (["1", "0", "1", "0"], {"labels": ["bad", "good"]}, ("bad", "good"), [1, 0, 1, 0]),
        (["good", "bad", "1", "0"], {"labels": ["bad", "good"]}, ("bad", "good"), [1, 0, 1, 0]),
        (["1", "0", "1", "0"], {"labels": ["1", "0"]}, ("1", "0"), [0, 1, 0, 1]),
    ],
)
def test_labels_are_words_or_numbers(tmp_path, labels, settings, names, numbers):
    rows = [(f"text {index}", label) for index, label in enumerate(labels)]
    paths = {f"{split}_path": str(write(tmp_path / f"{split}.tsv", rows)) for split in ("train", "val")}
    data = build(tmp_path, **paths, **settings)
    assert data.spec.labels == names and set(data.spec.sizes) == {"train", "val"}
    assert data.dataset("train").gather(np.arange(4))["labels"].tolist() == numbers


def test_one_file_is_divided_with_equal_shares_of_each_class(tmp_path):
    rows = [(f"text {number}", "rare" if number % 10 == 0 else "common") for number in range(500)]
    data = build(tmp_path, path=str(write(tmp_path / "all.tsv", rows)), split="0.8,0.1,0.1")
    assert data.spec.sizes == {"train": 400, "val": 50, "test": 50}
    for split, size in data.spec.sizes.items():
        assert sum(label for _, label in texts_of(data, split)) == size // 10
    whole = [row for split in data.spec.sizes for row in texts_of(data, split)]
    assert sorted(whole) == sorted((text, int(label == "rare")) for text, label in rows)


def test_copies_join_one_split_whatever_the_order_of_the_rows():
    texts = [LabelledText(f"text {number % 40}", number % 40 % 3, "") for number in range(120)]
    parts = divide_by_class(texts, "0.5,0.25,0.25")
    found = {name: {one.text for one in part} for name, part in parts.items()}
    assert sum(map(len, found.values())) == 40 and sum(map(len, parts.values())) == 120
    again = divide_by_class(texts[::-1], "0.5,0.25,0.25")
    assert found == {name: {one.text for one in part} for name, part in again.items()}


def test_every_class_has_a_text_in_train():
    texts = [LabelledText(f"text {number}", max(0, number - 15), "") for number in range(20)]
    assert {one.label for one in divide_by_class(texts, "0.6,0.2,0.2")["train"]} == {0, 1, 2, 3, 4}


def test_texts_that_are_too_long_are_cut_and_counted(tmp_path, folder):
    for _ in ("built", "cached"):
        with pytest.warns(UserWarning, match="sequence_length=6 tokens: 1 of train, 1 of val; the longest has 11"):
            data = build(tmp_path, sequence_length=6)
    assert texts_of(data, "train")[2] == ("grea", 1) and data.dataset("train").lengths.max() == 6
    end = data.tokenizer.end_of_text
    assert data.dataset("train").gather(np.array([2]))["tokens"].tolist() == [[end, *b"grea", end]]


def test_or_refused_with_their_place(tmp_path, folder):
    with pytest.raises(DataError, match=r"train.tsv:4 has 11 tokens, over data.sequence_length=6"):
        build(tmp_path, sequence_length=6, too_long=TooLong.refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(tmp_path, sequence_length=11, too_long=TooLong.refuse)


def test_rows_without_text_are_left_out_and_said(tmp_path, folder):
    write(folder / "train.tsv", [*TRAIN, (" ", 1)])
    with pytest.warns(UserWarning, match="without text are left out: .*train.tsv:6"):
        assert texts_of(build(tmp_path), "train") == TRAIN
    with pytest.raises(DataError, match=r"train.tsv:6\n.*empty_text=refuse"):
        build(tmp_path, empty_text=EmptyText.refuse)


def refused(tmp_path, match, **settings):
    with pytest.raises(DataError, match=match) as caught:
        build(tmp_path, **settings)
    assert caught.value.problems[0].fix


def test_labels_that_train_never_had_are_named(tmp_path, folder):
    write(folder / "test.tsv", [("a", 1), ("b", 7)])
    refused(tmp_path, "test.tsv:3 has the label '7', which is not one of the classes")
    write(folder / "test.tsv", [("a", 1), ("b", " ")])
    refused(tmp_path, r"test.tsv:3\n.*label is empty")
    write(folder / "test.tsv", [("a", 1)], header="sentence\tlabel\n")
    refused(tmp_path, r"test.tsv:1\n.*no column 'text'; its columns: 'sentence', 'label'")
    (folder / "test.tsv").write_text("text\na\n")
    refused(tmp_path, "no column 'label'")


def test_one_class_is_nothing_to_learn(tmp_path, folder):
    write(folder / "train.tsv", [("a", 1), ("b", 1)])
    refused(tmp_path, "train.tsv has one class only, '1'")
    refused(tmp_path, "train.tsv has one class only, '1'", labels=["bad", "good"])


def test_one_row_is_too_little(tmp_path):
    refused(tmp_path, "one class only", path=str(write(tmp_path / "all.tsv", [("a", 1)])))
    refused(tmp_path, "split would be empty", path=str(write(tmp_path / "all.tsv", [("a", 1), ("b", 0)])))


def test_the_wrong_column_is_no_label(tmp_path):
    path = str(write(tmp_path / "all.tsv", [(f"text {number}", number / 8) for number in range(20)]))
    refused(tmp_path, "20 different labels in 20 rows", path=path)


def test_a_header_is_not_taken_for_a_row(tmp_path):
    path = str(write(tmp_path / "all.tsv", [(f"text {number}", number % 2) for number in range(40)]))
    places = {"text_column": "1", "label_column": "2"}
    refused(tmp_path, "all.tsv:1 has the label 'label', which no other row has", path=path, **places)
    refused(tmp_path, "all.tsv:1 has the label 'label', which is not", path=path, labels=["no", "yes"], **places)


def test_a_class_that_train_lacks_is_said(tmp_path, folder):
    with pytest.warns(UserWarning, match="no training text is of the class so-so"):
        assert build(tmp_path, labels=["bad", "good", "so-so"]).spec.num_classes == 3


def test_a_folder_that_lacks_a_file_or_has_two_says_so(tmp_path, folder):
    write(folder / "val.csv", [])
    refused(tmp_path, "more than one file for val: dev.tsv, val.csv")
    for name in ("val.csv", "dev.tsv"):
        (folder / name).unlink()
    refused(tmp_path, "no file for val")
    refused(tmp_path, "No such file", path=str(tmp_path / "nowhere.tsv"))


def test_a_checkpoints_tokenizer_and_labels_need_no_training_texts(tmp_path, folder):
    given = ByteTokenizer(end_of_text=True)
    data = build(tmp_path, given, test_path=str(folder / "test.tsv"), labels=["bad", "good"])
    assert data.spec.sizes == {"test": 3} and data.spec.labels == ("bad", "good")
    with pytest.raises(DataError, match="no train split"):
        data.dataset("train")


def test_augmentation_belongs_to_the_data(tmp_path, folder):
    assert build(tmp_path).augment is None
    assert build(tmp_path, augment=TextAugmentConfig(word_dropout=0.1)).augment is not None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "path is missing"),
        ({"train_path": "a.tsv"}, "val_path is missing"),
        ({"path": "a.tsv", "test_path": "b.tsv"}, "path has all splits"),
        ({"path": "a.tsv", "label_column": "text"}, "are both 'text'"),
        ({"path": "a.tsv", "labels": ["a", "a"]}, "two different names"),
        ({"path": "a.tsv", "split": "0.9,0.2"}, "three fractions"),
        ({"path": "a.tsv", "sequence_length": 2}, "at least 3"),
        ({"path": "a.tsv", "augment": TextAugmentConfig(word_dropout=1.0)}, "below 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, problem):
    assert any(problem in str(found) for found in find_problems(TextClassificationConfig(**settings)))
