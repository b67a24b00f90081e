"""Text classification through the installed command: train, evaluate, ask; and files that can't be used."""

import json
import shutil

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .conftest import MODEL, Shell

TRAINER = ["trainer.gpus=0", "trainer.max_duration=60step", "trainer.batch_size=8", "optimizer.learning_rate=1e-2"]
WORDS = ["task=classification", "data=text_classification", "data.cache_dir=cache", "data.sequence_length=32"]
GOOD, BAD = ("a lovely film", "lovely and moving"), ("a dull film", "dull and slow")


def write(path, rows, header="text,label"):
    path.write_text("\n".join([header, *(f'"{text}",{label}' for text, label in rows)]) + "\n", encoding="utf-8")


def reviews(count):
    texts = [(f"{number} {pair[number // 2 % 2]}", label) for number in range(count) for pair, label in _pairs(number)]
    return texts[:count]


def _pairs(number):
    return [(GOOD, "praise")] if number % 2 else [(BAD, "blame")]


@pytest.fixture(scope="module")
def reviewer(tmp_path_factory):
    """A shell with one finished run of a classifier; tests must leave it as it is."""
    shell = Shell(tmp_path_factory.mktemp("reviewer"))
    write(shell.folder / "reviews.csv", reviews(200))
    augment = ["data.augment.word_dropout=0.1", "data.augment.word_swap=0.1"]
    shell.run(*MODEL, *WORDS, "data.path=reviews.csv", "data.tokenizer=char", *augment, *TRAINER)
    return shell


def test_training_learns_and_shows_sentences(reviewer):
    (run,) = reviewer.runs()
    assert reviewer.status(run)["metrics"]["test/accuracy"] == 1.0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    shown = events.Tensors("val/predictions/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "praise" in shown and "(right): " in shown and ("lovely" in shown or "dull" in shown)
    assert "val/confusion" in events.Tags()["images"]


def test_generate_names_the_class(reviewer):
    done = reviewer.run("generate", "checkpoint=latest", "prompt=77 a lovely film")
    label, probability = done.stdout.splitlines()[0].split(",")[0].split()
    assert label == "praise" and float(probability) > 0.5
    done = reviewer.run("generate", "checkpoint=latest", stdin="8 dull and slow\n9 lovely and moving\n")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["blame", "praise"]
    done = reviewer.run("generate", "checkpoint=latest", f"prompt={'a dull 日本 film ' * 9}")
    assert {"blame", "praise"} & set(done.stdout.split()) and "its first 32 are read" in done.stderr


def test_a_checkpoint_needs_none_of_its_files(reviewer, shell):
    (run,) = reviewer.runs()
    shutil.copytree(run / "checkpoints/step-00000060", shell.folder / "alone")
    assert shell.run("generate", "checkpoint=alone", "prompt=3 a dull film").stdout.startswith("blame")
    # All rows of another file are evaluated, with the classes in the model's order, whichever of them occur.
    write(shell.folder / "others.csv", [(f"{number} a lovely film", "praise") for number in range(11)])
    done = shell.run("eval", "checkpoint=alone", "data.path=others.csv", "data.cache_dir=cache")
    assert "test split, 11 samples" in done.stdout and "1.0000" in done.stdout
    write(shell.folder / "others.csv", [("a film", "praise"), ("a film", "so-so")])
    done = shell.run("eval", "checkpoint=alone", "data.path=others.csv", "data.cache_dir=cache", code=3)
    assert "others.csv:3 has the label 'so-so'" in done.stderr


def test_eval_finds_what_training_found(reviewer):
    (run,) = reviewer.runs()
    reviewer.run("eval", f"checkpoint={run}", "split=val")
    report = json.loads((run / "eval.json").read_text())
    assert report["metrics"]["loss"] == pytest.approx(reviewer.status(run)["metrics"]["val/loss"], rel=1e-6)
    assert report["samples"] == 20 and np.isfinite(report["metrics"]["macro_f1"])


ROWS = reviews(40)


@pytest.mark.parametrize(
    ("files", "words", "place", "why"),
    [
        ({"train.csv": ""}, [], "train.csv\n", "no rows"),
        ({"train.csv": [("one line", 1)]}, [], "train.csv has one class only", "tell apart"),
        ({"train.csv": [("a", 1), ("b", 1)]}, [], "train.csv has one class only", "tell apart"),
        ({"test.csv": [("a", "praise"), ("b", "so-so")]}, [], "test.csv:3", "'so-so', which is not one"),
        ({"dev.csv": "text\na\n"}, [], "dev.csv:1", "no column 'label'"),
        ({"dev.csv": "text,label\na,praise\nb\n"}, [], "dev.csv:3", "it has 1 field(s), line 1 has 2"),
        ({"train.csv": b"text,label\nf\xfcr,praise\n"}, [], "train.csv:2", "(byte 13 of the file)"),
        ({"dev.csv": [("", "praise")]}, ["data.empty_text=refuse"], "dev.csv:2", "text is empty"),
        ({"dev.csv": [(" ", "praise")]}, [], "dev.csv\n", "all its texts are empty"),
        ({"test.csv": [("a" * 99, "praise")]}, ["data.too_long=refuse"], "test.csv:2", "has 101 tokens"),
    ],
)
def test_what_is_wrong_with_the_data_is_a_sentence(shell, files, words, place, why):
    (shell.folder / "data").mkdir()
    for name, content in ({"train.csv": ROWS, "dev.csv": ROWS, "test.csv": ROWS} | files).items():
        if isinstance(content, list):
            write(shell.folder / "data" / name, content)
        else:
            (shell.folder / "data" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = shell.run(*MODEL, *WORDS, *TRAINER, "data.path=data", "data.tokenizer=byte", *words, code=3)
    assert f"data/{place}" in done.stderr and why in done.stderr


def test_a_text_over_the_models_positions_is_cut_counted_or_refused_before_anything_is_read(shell):
    write(shell.folder / "reviews.csv", [*ROWS, ("long " * 50, "praise")])
    words = [*MODEL, *WORDS, "data.path=reviews.csv", "data.tokenizer=byte", *TRAINER, "trainer.max_duration=1step"]
    done = shell.run(*words, "model.max_length=32")
    assert "cut to data.sequence_length=32 tokens" in done.stdout + done.stderr
    assert "model.max_length is 16" in shell.run(*words, "model.max_length=16", code=2).stderr
