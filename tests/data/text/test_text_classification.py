"""Labelled texts from files: the samples, the names of the classes, the splits, and what is refused or said."""

import warnings

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.text.class_division import LabelledText, divide_by_class, fractions_of
from bigtrain.data.text.config import EmptyText, TextAugmentConfig, TextClassificationConfig, Tokenizer, TooLong
from bigtrain.data.text.text_classification import TextClassification
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer
from bigtrain.errors import DataError

PLACES = {"text_column": "1", "label_column": "2"}
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
    parts = divide_by_class(texts, fractions_of("0.5,0.25,0.25"), "data.split")
    found = {name: {one.text for one in part} for name, part in parts.items()}
    assert sum(map(len, found.values())) == 40 and sum(map(len, parts.values())) == 120
    again = divide_by_class(texts[::-1], fractions_of("0.5,0.25,0.25"), "data.split")
    assert found == {name: {one.text for one in part} for name, part in again.items()}


def test_every_class_has_a_text_in_train():
    texts = [LabelledText(f"text {number}", max(0, number - 15), "") for number in range(20)]
    assert {one.label for one in divide_by_class(texts, fractions_of("0.6,0.2,0.2"), "data.split")["train"]} == {
        0,
        1,
        2,
        3,
        4,
    }


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
    (folder / "dev.tsv").write_text("text\na\n")
    refused(tmp_path, "no column 'label'")


def test_one_class_is_nothing_to_learn(tmp_path, folder):
    write(folder / "train.tsv", [("a", 1), ("b", 1)])
    refused(tmp_path, "train.tsv has one class only, '1'")
    refused(tmp_path, "train.tsv has one class only, '1'", labels=["bad", "good"])


def test_a_label_that_no_row_has_is_no_class(tmp_path):
    (tmp_path / "all.jsonl").write_text('{"text": "a", "labels": 1}\n{"text": "b", "labels": 0}\n')
    refused(tmp_path, "all.jsonl has no labels: 'label' is empty, or not there", path=str(tmp_path / "all.jsonl"))


def test_many_unknown_words_are_said(tmp_path):
    path = write(tmp_path / "all.tsv", [(f"some word{number} other{number}", number % 2) for number in range(40)])
    with pytest.warns(UserWarning, match=r"40% of the tokens of train.* unknown, and the same to the model"):
        build(tmp_path, path=str(path), tokenizer=Tokenizer.word, vocab_size=100)


def test_folders_in_a_folder_without_train_are_named(tmp_path, folder):
    refused(tmp_path, f"data.path={folder}$", path=str(tmp_path))


def test_one_row_is_too_little(tmp_path):
    refused(tmp_path, "one class only", path=str(write(tmp_path / "all.tsv", [("a", 1)])))
    refused(tmp_path, "split would be empty", path=str(write(tmp_path / "all.tsv", [("a", 1), ("b", 0)])))


def test_the_wrong_column_is_no_label(tmp_path):
    path = str(write(tmp_path / "all.tsv", [(f"text {number}", number / 8) for number in range(20)]))
    refused(tmp_path, "20 different labels in 20 rows", path=path)


def test_a_header_is_not_taken_for_a_row(tmp_path):
    path = str(write(tmp_path / "all.tsv", [(f"text {number}", number % 2) for number in range(40)]))
    refused(
        tmp_path, "all.tsv:1 has the label 'label', which no other row has: line 1 looks like a", path=path, **PLACES
    )
    with pytest.warns(UserWarning, match="line 1 looks like a header, so .* text in 'text', label in 'label'"):
        data = build(tmp_path, path=path, labels=["no", "yes"], **PLACES)
    assert sum(data.spec.sizes.values()) == 40
    for settings in ({}, {"labels": ["no", "yes"]}):
        train = str(write(tmp_path / "train.tsv", TRAIN, header=""))
        both = {"train_path": train, "val_path": path, **PLACES}
        with (
            pytest.raises(DataError, match="line 1 looks like a header") if not settings else pytest.warns(UserWarning)
        ):
            build(tmp_path, **both, **settings)


def test_a_class_that_train_lacks_is_said(tmp_path, folder):
    with pytest.warns(UserWarning, match="no training text is of the class so-so"):
        assert build(tmp_path, labels=["bad", "good", "so-so"]).spec.num_classes == 3


def test_val_is_held_out_of_train_where_it_has_no_file(tmp_path, folder):
    write(folder / "train.tsv", [(f"text {number}", number % 2) for number in range(60)])
    (folder / "dev.tsv").unlink()
    for settings in ({}, {"train_path": str(folder / "train.tsv"), "test_path": str(folder / "test.tsv")}):
        with pytest.warns(UserWarning, match=r"no file for val: 6 of the 60 training texts.*val_fraction=0.1"):
            data = build(tmp_path, **settings)
        assert data.spec.sizes == {"train": 54, "val": 6, "test": 3}
        assert sorted(label for _, label in texts_of(data, "val")) == [0, 0, 0, 1, 1, 1]
    with pytest.warns(UserWarning, match="held out"):
        assert build(tmp_path, val_fraction=0.3).spec.sizes == {"train": 42, "val": 18, "test": 3}
    with pytest.warns(UserWarning, match="val_fraction=0.3 has no effect"):
        build(tmp_path, path=str(folder / "train.tsv"), val_fraction=0.3)


@pytest.mark.parametrize(
    ("test", "settings", "why"),
    [
        ("index\tsentence\n0\ta\n", {}, "no column label"),
        ("sentence\tlabel\na\t-1\nb\t-1\n", {}, "no labels .'-1' in each row"),
        ("sentence\tlabel\na\t\nb\t\n", {}, "no labels .'' in each row"),
        (
            "index\tsentence\n0\ta\n",
            {"text_column": "1", "label_column": "2", "labels": ["bad", "good"]},
            "no column label",
        ),
        ("a\n", {"text_column": "1", "label_column": "2", "header": ""}, "no column 2"),
    ],
)
def test_a_test_split_without_labels_is_left_out_and_said(tmp_path, folder, test, settings, why):
    settings = {"text_column": "sentence", **settings}
    header = settings.pop("header", "sentence\tlabel\n")
    for name in ("train", "dev"):
        write(folder / f"{name}.tsv", TRAIN, header=header)
    (folder / "test.tsv").write_text(test)
    with pytest.warns(UserWarning, match=rf"test.tsv has {why}.* there is no test split"):
        data = build(tmp_path, **settings)
    assert data.spec.sizes == {"train": 4, "val": 4} and texts_of(data, "train") == TRAIN
    alone = {"labels": ["bad", "good"], **settings, "test_path": str(folder / "test.tsv")}
    refused_with(tmp_path, ByteTokenizer(end_of_text=True), **alone)


def refused_with(tmp_path, given, **settings):
    with pytest.raises(DataError):
        build(tmp_path, given, **settings)


def test_several_columns_are_joined(tmp_path):
    (tmp_path / "all.csv").write_text(
        "title,body,label\n" + "".join(f"t{n},b{n},{n % 2}\n,c{n},{n % 2}\n" for n in range(20))
    )
    data = build(tmp_path, path=str(tmp_path / "all.csv"), text_column=["title", "body"])
    texts = {text for split in data.spec.sizes for text, _ in texts_of(data, split)}
    assert texts == {f"t{n} | b{n}" for n in range(20)} | {f"c{n}" for n in range(20)}
    refused(tmp_path, "no column 'head'", path=str(tmp_path / "all.csv"), text_column=["title", "head"])


@pytest.mark.parametrize("labels", [[], ["bad", "good"], ["0", "1"], ["0.0", "1.0"]])
def test_labels_may_be_numbers_as_a_spreadsheet_or_json_writes_them(tmp_path, labels):
    for name, line in (("a.csv", "text {0},{1}.0\n"), ("a.jsonl", '{{"text": "text {0}", "label": {1}.0}}\n')):
        lines = "".join(line.format(number, number % 2) for number in range(20))
        (tmp_path / name).write_text("text,label\n" * (name == "a.csv") + lines)
        data = build(tmp_path, path=str(tmp_path / name), labels=labels)
        assert data.spec.labels == tuple(labels or ["0.0", "1.0"])
        assert all(int(text.split()[1]) % 2 == label for text, label in texts_of(data, "train"))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path, folder, monkeypatch):
    module = "bigtrain.data.text.text_classification"
    labelled = __import__(module, fromlist=["_labelled"])._labelled

    def changing(*words):
        write(folder / "dev.tsv", [("other", 1)])
        return labelled(*words)

    monkeypatch.setattr(f"{module}._labelled", changing)
    refused(tmp_path, "dev.tsv changed while it was being read")


def test_files_of_any_ending_and_linked_ones_are_found_in_a_folder(tmp_path, folder):
    (folder / "dev.tsv").rename(folder / "dev")
    (folder / "train.tsv").rename(tmp_path / "elsewhere.txt")
    (folder / "train.txt").symlink_to(tmp_path / "elsewhere.txt")
    (folder / "val.txt").symlink_to(folder / "dev")
    (folder / "train").mkdir()
    with pytest.warns(UserWarning, match=r"train.txt is read as a table with a tab"):
        assert build(tmp_path).spec.sizes == {"train": 4, "val": 2, "test": 3}
    (folder / "test.tsv").rename(folder / "Test-00000-of-00001.TSV")
    assert build(tmp_path).spec.sizes == {"train": 4, "val": 2, "test": 3}
    write(folder / "more.tsv", TRAIN)
    with pytest.warns(UserWarning, match=r"1 more table.* no split .*more.tsv"):
        build(tmp_path)
    (tmp_path / "elsewhere.txt").unlink()
    refused(tmp_path, r"train.txt\n.*a link to .*elsewhere.txt, which leads nowhere")
    refused(tmp_path, "leads nowhere", path=str(folder / "train.txt"))


def test_a_folder_that_lacks_a_file_or_has_two_says_so(tmp_path, folder):
    write(folder / "val.csv", [])
    refused(tmp_path, "more than one file for val: dev.tsv, val.csv")
    for name in ("val.csv", "train.tsv"):
        (folder / name).unlink()
    refused(tmp_path, "no file for train")
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
        ({"path": "a.tsv", "text_column": ["a", "label"]}, "are both 'label'"),
        ({"path": "a.tsv", "text_column": ["a", "a"]}, "each column once"),
        ({"path": "a.tsv", "text_column": []}, "one column at least"),
        ({"path": "a.tsv", "separator": ";"}, "';' is semicolon"),
        ({"path": "a.tsv", "separator": "\\t"}, "allowed: tab, comma, semicolon, bar, space"),
        ({"path": "a.tsv", "encoding": "cp12520"}, "encoding is 'cp12520'"),
        ({"path": "a.tsv", "encoding": "base64"}, "encoding is 'base64'"),
        ({"train_path": "a.tsv", "val_path": "b.tsv", "val_fraction": 0.1}, "val_fraction"),
        ({"path": "a.tsv", "val_fraction": 1.0}, "below 1"),
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
