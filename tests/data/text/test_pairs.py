"""Pairs of texts: what is read from which files, and every way that the two sides may not fit together."""

import gzip
import warnings

import numpy as np
import pytest

from bigtrain.config.settings import find_problems
from bigtrain.data.order import BucketedOrder
from bigtrain.data.text import pairs
from bigtrain.data.text.config import LongPair, SentencePairsConfig, Tokenizer
from bigtrain.data.text.pairs import SentencePairs
from bigtrain.data.tokenizers.tokenizer import framing_ids
from bigtrain.errors import DataError

SOURCES = [f"{word} Häuser, {number} Bäume – und „{word}“!" for number, word in enumerate(["rote", "alte", "zwei"] * 7)]
TARGETS = [f"{number} trees and {word} houses" for number, word in enumerate(["red", "old", "two"] * 7)]


def write(path, lines, end="\n"):
    text = "".join(line + end for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)


@pytest.fixture
def folder(tmp_path):
    """Twenty-one pairs: fourteen to train on, four for validation, three to test on."""
    for name, part in (("train", slice(14)), ("val", slice(14, 18)), ("test", slice(18, 21))):
        write(tmp_path / f"{name}.de", SOURCES[part])
        write(tmp_path / f"{name}.en", TARGETS[part])
    return tmp_path


def build(folder, given=None, **settings):
    """The data module, without its warnings; `given`: a checkpoint's tokenizer."""
    config = config_of(folder, **settings)
    assert find_problems(config) == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SentencePairs(config, given)


def config_of(folder, **settings):
    languages = {"source_language": "de", "target_language": "en", "tokenizer": Tokenizer.char}
    return SentencePairsConfig(**{"path": str(folder), "cache_dir": str(folder / "cache"), **languages, **settings})


def texts(data, split):
    """The pairs of a split, as text again."""
    dataset = data.dataset(split)
    samples = dataset.gather(np.arange(len(dataset)))
    sides = []
    for side in ("source", "target"):
        rows = zip(samples[side].numpy(), samples[f"{side}_lengths"].tolist(), strict=True)
        sides.append([data.tokenizer.decode(row[1 : length - 1]) for row, length in rows])
    return list(zip(*sides, strict=True))


PAIRS = list(zip(SOURCES, TARGETS, strict=True))


@pytest.mark.parametrize("tokenizer", [Tokenizer.byte, Tokenizer.char, Tokenizer.bpe])
def test_what_is_gathered_is_what_the_files_say(folder, tokenizer):
    data = build(folder, tokenizer=tokenizer)
    assert data.spec.sizes == {"train": 14, "val": 4, "test": 3}
    assert texts(data, "train") + texts(data, "val") + texts(data, "test") == PAIRS
    samples = data.dataset("train").gather(np.array([3, 0]))
    before, after = framing_ids(data.tokenizer)
    for side in ("source", "target"):
        tokens, lengths = samples[side], samples[f"{side}_lengths"]
        assert tokens.shape[1] == lengths.max() and tokens[:, 0].tolist() == [before, before]
        assert [row[length - 1] for row, length in zip(tokens.tolist(), lengths, strict=True)] == [after, after]
        assert all((row[length:] == 0).all() for row, length in zip(tokens, lengths, strict=True))


def test_lengths_are_those_of_the_longer_side_and_make_batches(folder):
    dataset = build(folder).dataset("train")
    samples = dataset.gather(np.arange(14))
    longer = np.maximum(samples["source_lengths"].numpy(), samples["target_lengths"].numpy())
    assert dataset.lengths.tolist() == longer.tolist()
    order = BucketedOrder(dataset.lengths, 0, batch_size=4, batch_tokens=120)
    first = dataset.gather(order.ids(0))
    assert max(first["source"].numel(), first["target"].numel()) <= 120


def test_gz_tables_prefixes_and_names_of_ones_own(folder, tmp_path):
    expected = build(folder).spec.fingerprint
    other = tmp_path / "other"
    other.mkdir()
    for name, part in (("train", slice(14)), ("dev", slice(14, 18)), ("2016", slice(18, 21))):
        write(other / f"{name}.de.gz", SOURCES[part], end="\r\n")
        write(other / f"{name}.en", [f" {target} " for target in TARGETS[part]])
        rows = [f"{number}\t{target}\t{source}" for number, (source, target) in enumerate(PAIRS[part])]
        write(other / f"{name}.tsv", ["id\ten\tde", *rows])
    assert build(other, val_name="dev", test_name="2016").spec.fingerprint == expected
    names = {"train": "train", "val": "dev", "test": "2016"}
    paths = {f"{split}_path": f"{other}/{name}" for split, name in names.items()}
    assert build(folder, path=None, **paths).spec.fingerprint == expected
    for path in other.glob("*.[de][en]*"):
        path.unlink()
    assert build(other, val_name="dev", test_name="2016").spec.fingerprint == expected
    tables = {key: f"{path}.tsv" for key, path in paths.items()}
    assert build(folder, path=None, **tables).spec.fingerprint == expected
    for name in ("train", "dev"):
        lines = (other / f"{name}.tsv").read_text().splitlines()[1:]
        write(other / f"{name}.tsv", lines)
    positions = {"source_language": "3", "target_language": "2"}
    data = build(other, val_name="dev", test_name=None, **positions)
    assert texts(data, "train") == PAIRS[:14] and set(data.spec.sizes) == {"train", "val"}
    with pytest.raises(DataError, match="no test split"):
        data.dataset("test")


def test_prepared_once_and_found_again_by_a_run_that_brings_its_tokenizer(folder):
    first = build(folder, tokenizer=Tokenizer.bpe)
    entries = list((folder / "cache/pairs").iterdir())
    again = build(folder, first.tokenizer, tokenizer=Tokenizer.bpe)
    assert again.spec == first.spec and list((folder / "cache/pairs").iterdir()) == entries
    write(folder / "val.en", TARGETS[:4])
    assert build(folder, tokenizer=Tokenizer.bpe).spec.fingerprint != first.spec.fingerprint


def test_pairs_without_text_on_one_side_are_left_out_and_counted(folder):
    write(folder / "train.de", [SOURCES[0], "", SOURCES[2], SOURCES[3]])
    write(folder / "train.en", [TARGETS[0], TARGETS[1], TARGETS[2], " \t"])
    for _ in "made", "found in the cache":
        with pytest.warns(UserWarning, match=r"2 pair\(s\) of train have no text on one side.*train\.de:2"):
            data = SentencePairs(config_of(folder, tokenizer=Tokenizer.byte))
        assert texts(data, "train") == [PAIRS[0], PAIRS[2]]


def test_long_pairs_are_cut_left_out_or_refused(folder):
    write(folder / "train.en", [*TARGETS[:3], "a very long target " * 9, *TARGETS[4:14]])
    whole = build(folder)
    limit = int(np.sort(whole.dataset("train").lengths)[-2])
    assert limit < whole.dataset("train").lengths.max()
    with pytest.warns(UserWarning, match=rf"1 pair\(s\) of train .*={limit} tokens and are cut there.*train\.de:4"):
        cut = SentencePairs(config_of(folder, sequence_length=limit))
    assert texts(cut, "train")[3] == (SOURCES[3], ("a very long target " * 9)[: limit - 2])
    assert cut.dataset("train").lengths.max() == limit == cut.spec.sequence_length
    with pytest.warns(UserWarning, match="1 pair.* left out"):
        dropped = SentencePairs(config_of(folder, sequence_length=limit, too_long=LongPair.drop))
    assert texts(dropped, "train") == [*PAIRS[:3], *PAIRS[4:14]] and dropped.spec.sizes["train"] == 13
    with pytest.raises(DataError, match=r"train\.de:4") as caught:
        build(folder, sequence_length=limit, too_long=LongPair.refuse)
    assert "data.sequence_length" in str(caught.value) and caught.value.exit_code == 3
    with pytest.raises(DataError, match="every pair"):
        build(folder, sequence_length=3, too_long=LongPair.drop)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("train.en", b"one line\n", "not aligned"),
        ("train.en", b"", "not aligned"),
        ("val.de", b"gut\nb\xe4d\nx\ny\n", "val.de:2"),
        ("test.en", "one\ntwo\n".encode("utf-16"), "test.en:1"),
        ("train.de", b"\n" * 14, "no pairs"),
    ],
)
def test_damaged_files_are_named_with_their_place(folder, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        build(folder)
    assert said in str(caught.value) and name in str(caught.value)


def test_unequal_numbers_of_lines_are_counted(folder):
    write(folder / "val.en", TARGETS[:6])
    with pytest.raises(DataError, match=r"val\.de has 4 and .*val\.en has 6"):
        build(folder)
    (folder / "val.en").write_bytes("\n".join(TARGETS[:4]).encode())  # a last line without an end is one all the same
    assert build(folder).spec.sizes["val"] == 4


def test_missing_files_are_named_and_what_is_there_is_listed(folder):
    (folder / "train.en").unlink()
    with pytest.raises(DataError) as caught:
        build(folder)
    assert "train.en" in str(caught.value) and "no " in str(caught.value) and "train.de" in str(caught.value)
    assert "train.de.gz" not in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere.*\n.*there is no folder"):
        build(folder, path=str(folder / "nowhere"))
    with pytest.raises(DataError, match="data.val_name"):
        build(folder, source_language="de", target_language="en", train_name="test", val_name="dev")


def test_val_is_held_out_of_train_where_it_has_no_files(folder):
    for side in ("de", "en"):
        (folder / f"val.{side}").unlink()
    write(folder / "train.de", SOURCES[:14] * 2)
    write(
        folder / "train.en", [*TARGETS[:14], *(f"so {line}" for line in TARGETS[:14])]
    )  # a second translation of each
    with pytest.warns(UserWarning, match=r"no files for val: 8 of the 28 training pairs .*val_fraction=0.3"):
        data = SentencePairs(config_of(folder, val_fraction=0.3, tokenizer=Tokenizer.byte))
    train, val = ({source for source, _ in texts(data, split)} for split in ("train", "val"))
    assert data.spec.sizes == {"train": 20, "val": 8, "test": 3} and not train & val and len(val) == 4
    originals = list(data.originals.open()())
    assert {original.text for original in originals if original.split == "val"} == val
    given = {"path": None, "train_path": str(folder / "train"), "val_fraction": 0.3, "tokenizer": Tokenizer.byte}
    assert texts(build(folder, **given), "val") == texts(data, "val")
    write(folder / "train.de", SOURCES[:1])
    write(folder / "train.en", TARGETS[:1])
    with pytest.raises(DataError, match="too few pairs"):
        build(folder)


def test_a_table_alone_is_divided_into_train_and_val(folder):
    lines = [f"{source};{target}" for source, target in PAIRS]
    (folder / "pairs.csv").write_bytes("\r\n".join(["de;en", *lines, ";"]).replace("–", "-").encode("cp1252"))
    with pytest.raises(DataError, match="data.encoding=cp1252"):
        build(folder, path=str(folder / "pairs.csv"))
    data = build(folder, path=str(folder / "pairs.csv"), encoding="cp1252")
    assert data.spec.sizes == {"train": 19, "val": 2}


def test_a_file_that_changes_while_it_is_read_is_named(folder, monkeypatch):
    read = pairs._read

    def changing(files, notes):
        write(folder / "val.en", ["other"] * 4)
        return read(files, notes)

    monkeypatch.setattr(pairs, "_read", changing)
    with pytest.raises(DataError, match="val.en changed while it was being read"):
        build(folder)


def test_settings_that_do_not_go_together():
    assert find_problems(SentencePairsConfig())
    assert find_problems(SentencePairsConfig(path="a", train_path="b", val_path="c"))
    assert find_problems(SentencePairsConfig(train_path="a", val_path="b", val_fraction=0.1))
    assert find_problems(SentencePairsConfig(path="a", source_language="en", target_language="en"))
    assert find_problems(SentencePairsConfig(path="a", tokenizer=Tokenizer.byte, vocab_size=300))
    assert not find_problems(SentencePairsConfig(path="a"))


def test_one_line_is_enough_to_train_on(folder):
    for name in ("train", "val", "test"):
        write(folder / f"{name}.de", ["Hallo"])
        write(folder / f"{name}.en", ["hello"])
    assert texts(build(folder), "train") == [("Hallo", "hello")]
    with pytest.raises(IndexError):
        build(folder).dataset("train").gather(np.array([1]))
