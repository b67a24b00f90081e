"""The audit of whole data sets: what was planted is found, and nothing else; real sets; what is bad said plainly."""

import dataclasses
import json
import os
import re
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

from bigtrain.data.audit.audit import audit, label_shift, rows_of
from bigtrain.data.audit.findings import Report
from bigtrain.data.audit.texts import gist_of
from bigtrain.data.images.config import IDXConfig
from bigtrain.data.images.idx import IDXImages
from bigtrain.data.text.config import (
    SentencePairsConfig,
    TextClassificationConfig,
    TextCorpusConfig,
    Tokenizer,
)
from bigtrain.data.text.pairs import SentencePairs
from bigtrain.data.text.text_classification import TextClassification
from bigtrain.data.text.text_corpus import TextCorpus
from tests.data.text.test_text_classification import write

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PLANTED = 100  # of each kind


def labelled(folder, cache, **settings):
    config = TextClassificationConfig(path=str(folder), cache_dir=str(cache), **settings)
    return TextClassification(config), config


def found_in(report, **wanted):
    """The offences that have these values, as (kind, split, sample)."""
    some = [one for one in report.offences if all(getattr(one, name) == value for name, value in wanted.items())]
    return {(one.kind, one.split, one.sample) for one in some}


def count_of(report, name, *splits):
    return next(check.count for check in report.checks if (check.name, check.splits) == (name, splits))


def corpus():
    """Sentences of Python's reference, in one line each, no two of them equal but for case and punctuation."""
    parts = (" ".join(part.split()) for text in topics.values() for part in re.split(r"(?<=[.:]) |\n\n", text))
    return list({gist_of(part): part for part in parts if len(gist_of(part)) >= 60}.values())


def edited(text, generator):
    """What a person might change: a word replaced, left out or put in, or a letter lost."""
    words = text.split()
    place = int(generator.choice([place for place, word in enumerate(words) if word[0].isalnum()]))
    changes = (
        [*words[:place], "however", *words[place + 1 :]],
        [*words[:place], *words[place + 1 :]],
        [*words[:place], "really", *words[place:]],
        [*words[:place], words[place][1:], *words[place + 1 :]],
    )
    return " ".join(changes[int(generator.integers(len(changes)))])


def normalised(text, generator):
    return (text.upper(), text.replace(" ", "  ").lower() + " !", f'"{text.title()}"')[int(generator.integers(3))]


def test_planted_duplicates_are_found_and_nothing_else(tmp_path):
    texts = corpus()
    generator = np.random.default_rng(0)
    train, test = texts[:-500], texts[-500:]
    assert len(train) > 1000
    sources = generator.permutation(len(train))[: 3 * PLANTED].tolist()
    plants = [train[one] for one in sources[:PLANTED]]
    plants += [normalised(train[one], generator) for one in sources[PLANTED : 2 * PLANTED]]
    plants += [edited(train[one], generator) for one in sources[2 * PLANTED :]]
    reports = []
    for name, rows in (("clean", test), ("planted", test + plants)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train.tsv", [(text, number % 2) for number, text in enumerate(train)])
        write(tmp_path / name / "dev.tsv", [("nothing of the kind", 0), ("neither here nor there", 1)])
        write(tmp_path / name / "test.tsv", [(text, number % 2) for number, text in enumerate(rows)])
        reports.append(audit(*labelled(tmp_path / name, tmp_path / "cache"), near=True))
    clean, planted = ({one for one in report.offences if one.split == "test"} for report in reports)
    leaks = {one for one in planted if one.kind in ("exact", "normalised", "near")} - clean
    right = {kind: set() for kind in ("exact", "normalised", "near")}
    for one in leaks:
        number = one.sample - len(test)
        if number >= 0 and one.other_sample == sources[number] and one.other_split == "train":
            right[one.kind].add(number)
    assert right["exact"] == set(range(PLANTED))
    assert right["normalised"] == set(range(PLANTED, 2 * PLANTED))
    assert right["near"] <= set(range(2 * PLANTED, 3 * PLANTED))
    assert len(right["near"]) >= 0.95 * PLANTED
    assert sum(map(len, right.values())) >= 0.99 * len(leaks)
    assert reports[1].verdict == "fail"


@pytest.fixture
def folder(tmp_path):
    """Two splits that share, train that repeats itself, labels that disagree."""
    (tmp_path / "data").mkdir()
    train = [("a good film", 1), ("a bad film", 0), ("A good film !", 1), ("so so", 0), ("so so", 1), ("fine", 1)]
    write(tmp_path / "data/train.tsv", train)
    write(tmp_path / "data/dev.tsv", [("a bad film", 1), ("Fine.", 1), ("dull", 1)])
    write(tmp_path / "data/test.tsv", [("new", 0), ("newer", 1), ("?!", 0), ("...", 1)])
    return tmp_path / "data"


@pytest.mark.parametrize("near", [False, True])
def test_every_finding_names_its_samples(tmp_path, folder, near):
    data, config = labelled(folder, tmp_path / "cache")
    report = audit(data, config, near=near)
    assert found_in(report, kind="exact") == {("exact", "val", 0)}
    assert found_in(report, kind="normalised") == {("normalised", "val", 1)}
    assert found_in(report, kind="repeat") == {("repeat", "train", 2), ("repeat", "train", 4)}
    disagree = {("train", 1), ("train", 3), ("train", 4), ("val", 0)}
    assert found_in(report, kind="conflict") == {("conflict", *one) for one in disagree}
    assert count_of(report, "leaked in all", "train", "val") == 2
    assert report.verdict == "fail"  # two thirds of val
    assert (
        next(check for check in report.checks if check.name == "classes" and check.splits == ("val",)).verdict == "warn"
    )
    assert ("near-duplicates" in {check.name for check in report.checks}) == near
    rows = list(rows_of(data, report.offences))
    assert {
        "kind": "normalised",
        "split": "val",
        "sample": 1,
        "place": f"{folder}/dev.tsv:3",
        "text": "Fine.",
        "label": 1,
        "other_split": "train",
        "other_sample": 5,
        "other_place": f"{folder}/train.tsv:7",
        "other_text": "fine",
        "other_label": 1,
        "similarity": 1.0,
    } in rows


def test_the_report_survives_json(tmp_path, folder):
    report = audit(*labelled(folder, tmp_path / "cache"), near=True)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == dataclasses.replace(report, offences=())


def test_the_limit_decides(tmp_path, folder):
    data, config = labelled(folder, tmp_path / "cache", audit_limit=0.7)
    assert audit(data, config, near=False).verdict == "warn"


def test_cut_texts_are_counted(tmp_path, folder):
    data, config = labelled(folder, tmp_path / "cache", sequence_length=8)
    report = audit(data, config, near=False)
    assert [count_of(report, "cut", split) for split in ("train", "val", "test")] == [3, 1, 0]
    again, _ = labelled(folder, tmp_path / "cache", sequence_length=8)  # from the cache
    assert audit(again, config, near=False) == report


@pytest.mark.parametrize("kind", [Tokenizer.char, Tokenizer.byte])
def test_what_the_tokenizer_was_fitted_to_is_said(tmp_path, folder, kind):
    data, config = labelled(folder, tmp_path / "cache", tokenizer=kind)
    (said,) = (check.detail for check in audit(data, config, near=False).checks if check.name == "tokenizer")
    assert ("training split only" in said) == (kind is Tokenizer.char)


def test_a_source_that_stands_in_train_is_found_whatever_its_translation(tmp_path):
    for split, sources, targets in (
        ("train", ["ein Hund", "eine Katze", "ein Haus"], ["a dog", "a cat", "a house"]),
        ("val", ["Ein Hund.", "ein Baum"], ["one dog", "a tree"]),
    ):
        for side, lines in (("de", sources), ("en", targets)):
            (tmp_path / f"{split}.{side}").write_text("\n".join(lines) + "\n")
    config = SentencePairsConfig(
        path=str(tmp_path),
        test_name=None,
        source_language="de",
        target_language="en",
        tokenizer=Tokenizer.byte,
        cache_dir=str(tmp_path / "cache"),
    )
    report = audit(SentencePairs(config), config, near=True)
    assert found_in(report, kind="normalised") == {("normalised", "val", 0)}
    assert (report.unit, len(report.offences)) == ("sources", 1)


def test_a_paragraph_of_a_corpus_in_two_splits_is_found(tmp_path):
    parts = corpus()[:60]
    (tmp_path / "train.txt").write_text("\n\n".join(parts[:50]))
    (tmp_path / "val.txt").write_text("\n\n".join([*parts[50:], parts[3], parts[4].replace(" ", "\n")]))
    config = TextCorpusConfig(
        train_path=str(tmp_path / "train.txt"), val_path=str(tmp_path / "val.txt"), cache_dir=str(tmp_path / "cache")
    )
    data = TextCorpus(config)
    report = audit(data, config, near=False)
    assert found_in(report, kind="exact") == {("exact", "val", 10)}
    assert found_in(report, kind="normalised") == {("normalised", "val", 11)}
    assert next(iter(rows_of(data, report.offences)))["text"] == parts[3][:300]


def test_images_that_are_the_same_but_for_brightness_and_noise(tmp_path, write_idx_set, idx_bytes):
    arrays = write_idx_set(tmp_path, shape=(12, 10))
    train, test = arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]
    generator = np.random.default_rng(1)
    test[3] = train[40]
    test[7] = train[41] // 2 + 60 + generator.integers(0, 2, test[7].shape)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(test))
    config = IDXConfig(path=str(tmp_path), val_fraction=0.0)
    report = audit(IDXImages(config), config, near=True)
    assert found_in(report, split="test") - found_in(report, kind="conflict") == {
        ("exact", "test", 3),
        ("near", "test", 7),
    }
    assert {one.other_sample for one in report.offences if one.kind in ("exact", "near")} == {40, 41}
    assert report.unit == "images"


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_has_images_in_both_splits():
    config = IDXConfig(path=str(DEBIAN), val_fraction=0.0)
    report = audit(IDXImages(config), config, near=True)
    near = {(one.sample, one.other_sample) for one in report.offences if one.kind == "near"}
    assert len(near) == 13  # looked at: the same photographs
    assert count_of(report, "duplicates", "train", "test") == 0  # each was scaled and inverted anew


@pytest.mark.skipif("BIGTRAIN_DATA" not in os.environ, reason="BIGTRAIN_DATA is not set")
def test_sst2_has_sentences_in_two_splits(tmp_path):
    folder = Path(os.environ["BIGTRAIN_DATA"], "sst2")
    if not folder.is_dir():
        pytest.skip("no sst2")
    report = audit(*labelled(folder, tmp_path, text_column="1", label_column="2"), near=True)
    assert count_of(report, "duplicates", "train", "test") == 2
    assert count_of(report, "normalised", "train", "val") == 1


def test_label_shift_is_that_of_a_table_worked_by_hand():
    # 30:10 against 10:30. Expected are 20 each, so the statistic is 4 * 100 / 20 = 20; erfc(sqrt(20 / 2)) = 7.74e-6.
    distance, chance = label_shift(np.array([30, 10]), np.array([10, 30]))
    assert distance == 0.5
    assert chance == pytest.approx(7.744e-6, rel=1e-3)
    assert label_shift(np.array([5, 0]), np.array([3, 0])) == (0.0, 1.0)
