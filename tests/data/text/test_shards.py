"""Shards leave no trace in the streams, and finished ones outlive a kill."""

import gzip
import json
import multiprocessing
import os
import random
import signal
import time
import warnings

import pytest

from bigtrain.data.text import shards, text_files, text_splits
from bigtrain.data.text.config import TextCorpusConfig, Tokenizer
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.data.tokenizers import subword
from bigtrain.errors import DataError

from ..tokenizers.subword_definitions import byte_level


def words(seed, count):
    generator = random.Random(seed)
    vocabulary = ["".join(generator.choices("abcdeé日m", k=generator.randint(1, 7))) for _ in range(200)]
    return "".join(word + generator.choice([" ", " ", "\n", "\r\n"]) for word in generator.choices(vocabulary, k=count))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """One long document; many short ones of unequal length, some in two files."""
    folder = tmp_path_factory.mktemp("corpora")
    documents = [words(number, 3 + number * 7 % 400) for number in range(60)]
    (folder / "long.txt").write_text(words(99, 12000), newline="")
    (folder / "short.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in documents))
    (folder / "separated.txt.gz").write_bytes(gzip.compress("\n<end>\n".join(documents).encode()))
    return folder


@pytest.fixture
def cut_small(monkeypatch):
    """Call it, and everything is cut small from then on; it gives a list in which every shard is noted when encoded."""

    def start():
        monkeypatch.setattr(shards, "SHARD_CHARACTERS", 3000)
        monkeypatch.setattr(shards, "LONGEST_SHARD", 5000)
        monkeypatch.setattr(subword, "PIECE_CHARACTERS", 200)
        monkeypatch.setattr(text_files, "_READ_BYTES", 777)
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # ten times as fast
        monkeypatch.setattr(shards, "_encode", noted)
        return made

    def noted(shard, opening, tokenizer, encode=shards._encode):
        made.append(shard)
        return encode(shard, opening, tokenizer)

    made = []
    return start


def corpus(cache_dir, tokenizer="byte", **settings):
    sizes = {"vocab_size": 300} if tokenizer == "bpe" else {}
    return TextCorpus(
        TextCorpusConfig(
            tokenizer=Tokenizer[tokenizer], cache_dir=str(cache_dir), sequence_length=16, **sizes, **settings
        )
    )


@pytest.fixture(params=["byte", "char", "bpe", "file"])
def tokenizer(request, tmp_path):
    settings = {"tokenizer": request.param}
    if request.param == "file":
        (tmp_path / "tokenizer.json").write_text(json.dumps(byte_level()))
        settings["tokenizer_path"] = str(tmp_path / "tokenizer.json")
    return settings


TEXTS = [
    ("long.txt", "nanogpt"),
    ("long.txt", "0.8,0.1,0.1"),
    ("short.jsonl", "0.8,0.1,0.1"),
    ("short.jsonl", "nanogpt"),
]
TEXTS += [("separated.txt.gz", "0.7,0.3,0"), ("", "0.8,0.1,0.1")]


@pytest.mark.filterwarnings("ignore:characters of:UserWarning")
@pytest.mark.parametrize(("name", "split"), TEXTS)
def test_shards_leave_no_trace(corpora, tmp_path, cut_small, name, split, tokenizer):
    """The same tokens (the fingerprint is of them), and the same facts about them."""
    separator = "<end>" if name.endswith(".gz") else ""
    settings = {"path": str(corpora / name), "document_separator": separator, "split": split, **tokenizer}
    whole = corpus(tmp_path / "whole", **settings)
    encoded = cut_small()
    cut = corpus(tmp_path / "cut", **settings)
    assert len(encoded) > 5
    assert cut.spec == whole.spec and cut.tokenizer.to_json() == whole.tokenizer.to_json()
    assert list((tmp_path / "cut" / "unfinished").iterdir()) == []


def test_own_files_likewise(corpora, tmp_path, cut_small):
    settings = {"train_path": str(corpora / "short.jsonl"), "val_path": str(corpora / "long.txt")}
    whole = corpus(tmp_path / "whole", **settings)
    cut_small()
    assert corpus(tmp_path / "cut", **settings).spec == whole.spec


def finished(cache_dir):
    return {entry: entry.stat().st_ino for entry in cache_dir.glob("unfinished/*/[!.]*")}


def test_each_attempt_starts_where_the_last_was_killed(corpora, tmp_path, cut_small, monkeypatch):
    """SIGKILL at any moment loses the shard that is being made, and nothing else."""
    settings = {"tokenizer": "char", "path": str(corpora / "long.txt")}
    encoded = cut_small()
    uninterrupted = corpus(tmp_path / "uninterrupted", **settings)
    total = len(encoded)
    noted = shards._encode
    monkeypatch.setattr(shards, "_encode", lambda *args: time.sleep(0.01) or noted(*args))
    kept = {}
    for attempt in range(4):
        process = multiprocessing.get_context("fork").Process(target=corpus, args=(tmp_path,), kwargs=settings)
        process.start()
        while len(finished(tmp_path)) < len(kept) + 2:
            time.sleep(0.001)
        time.sleep(0.004 * attempt)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert kept.items() < finished(tmp_path).items() and not list(tmp_path.glob("text/*"))
        kept = finished(tmp_path)
    encoded.clear()
    assert corpus(tmp_path, **settings).spec == uninterrupted.spec
    assert len(encoded) == total - (len(kept) - 1)  # one of them is the tokenizer
    assert not finished(tmp_path)


def test_an_interrupt_likewise(corpora, tmp_path, cut_small, monkeypatch):
    encoded, noted = cut_small(), shards._encode

    def interrupted(*args):
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return noted(*args)

    monkeypatch.setattr(shards, "_encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        corpus(tmp_path, path=str(corpora))
    first = list(encoded)
    monkeypatch.setattr(shards, "_encode", noted)
    corpus(tmp_path, path=str(corpora))
    assert len(encoded) > 4 and not any(shard in first for shard in encoded[4:])


def test_another_process_that_was_faster_is_no_harm(corpora, tmp_path, cut_small, monkeypatch):
    encoded, noted = cut_small(), shards._encode
    path = str(corpora / "long.txt")

    def overtaken(*args):
        if len(encoded) == 5:
            monkeypatch.setattr(shards, "_encode", noted)
            corpus(tmp_path, path=path)
        return noted(*args)

    monkeypatch.setattr(shards, "_encode", overtaken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = corpus(tmp_path, path=path)
    assert found.spec == corpus(tmp_path / "alone", path=path).spec


def test_without_a_cache_it_works_from_memory(corpora, tmp_path, cut_small):
    (tmp_path / "file").write_text("in the way")
    encoded = cut_small()
    with pytest.warns(UserWarning, match="data.cache_dir"):
        found = corpus(tmp_path / "file" / "cache", path=str(corpora / "long.txt"))
    assert found.spec == corpus(tmp_path / "kept", path=str(corpora / "long.txt")).spec
    assert encoded


def test_what_was_given_up_is_removed_after_a_month(corpora, tmp_path, cut_small):
    for name, days in (("old", 31), ("young", 29)):
        (tmp_path / "unfinished" / name).mkdir(parents=True)
        os.utime(tmp_path / "unfinished" / name, (time.time() - days * 86400,) * 2)
    cut_small()
    corpus(tmp_path, path=str(corpora / "long.txt"))
    assert [path.name for path in (tmp_path / "unfinished").iterdir()] == ["young"]


def test_a_vocabulary_is_learnt_from_a_sample_of_train_that_the_text_alone_decides(tmp_path, cut_small, monkeypatch):
    for name, word in (("train", "alpha"), ("val", "omega")):
        lines = (f"{word} {number} {random.Random(number).random()}" for number in range(3000))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    samples, fit = [], text_splits.fit_to_texts
    cut_small()
    monkeypatch.setattr(text_splits, "SAMPLE_CHARACTERS", 20_000)
    monkeypatch.setattr(
        text_splits, "fit_to_texts", lambda config, texts, **rest: samples.append(texts) or fit(config, texts, **rest)
    )
    for cache_dir in ("a", "b"):
        paths = {f"{name}_path": str(tmp_path / f"{name}.txt") for name in ("train", "val")}
        corpus(tmp_path / cache_dir, "bpe", **paths)
    text = "".join(samples[0])
    assert samples[0] == samples[1] and "omega" not in text
    assert 15_000 < len(text) < 25_000
    numbers = [int(line.split()[1]) for line in text.split("\n") if line.startswith("alpha ")]
    assert min(numbers) < 500 and max(numbers) > 2500  # from all over the text


def test_a_file_that_grows_meanwhile_is_an_error(tmp_path, cut_small, monkeypatch):
    path = tmp_path / "log.txt"
    path.write_text("the first line\n" * 1000)
    cut_small()
    tokenise = text_splits.tokenise

    def written_to(*args):
        with path.open("a") as file:
            file.write("one more line\n")
        return tokenise(*args)

    monkeypatch.setattr(text_splits, "tokenise", written_to)
    with pytest.raises(DataError, match="changed while it was being read"):
        corpus(tmp_path / "cache", path=str(path))
