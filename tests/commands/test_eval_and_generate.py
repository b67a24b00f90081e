"""`bigtrain eval` and `bigtrain generate` through the installed command."""

import json
import shutil

import pytest

from .conftest import GLYPHS, MODEL


def test_eval_finds_what_training_found(trained):
    (run,) = trained.runs()
    for where in (
        run,
        run / "checkpoints/best",
        run / "checkpoints/latest",
        run / "checkpoints/step-00000020",
    ):
        done = trained.run("eval", f"checkpoint={where}", "split=val")
        assert "perplexity" in done.stdout
        report = json.loads((run / "eval.json").read_text())
        assert report["metrics"]["loss"] == pytest.approx(trained.status(run)["metrics"]["val/loss"], rel=1e-6)
        assert (report["split"], report["step"]) == ("val", 20)


def test_a_checkpoint_stands_alone(trained, shell):
    (run,) = trained.runs()
    shutil.copytree(run / "checkpoints/step-00000020", shell.folder / "alone")
    shell.run("eval", "checkpoint=alone")
    assert shell.run("generate", "checkpoint=alone", "prompt=abc", "max_tokens=5").stdout.startswith("abc")
    assert sorted(path.name for path in shell.folder.iterdir()) == ["alone"]


def test_generate_repeats_and_seeds_differ(trained):
    words = ["generate", "checkpoint=latest", "prompt=ab", "max_tokens=40"]
    first, again, other = (trained.run(*words, f"seed={seed}").stdout for seed in (0, 0, 1))
    assert first == again != other
    assert first.startswith("ab")
    assert len(first.rstrip("\n")) == 42


def test_generate_without_a_prompt_reads_lines(trained):
    done = trained.run("generate", "checkpoint=latest", "max_tokens=5", stdin="ab\nde\n")
    assert [line[:2] for line in done.stdout.splitlines()] == ["ab", "de"]


def test_a_learnt_tokenizer_travels_in_the_checkpoint(shell):
    words = ["the cat", "sat on", "a mat;", "Ünïcode 日本", "it isn't"]
    story = " ".join(words[number * number % 23 % 5] for number in range(4000))
    (shell.folder / "story.txt").write_text(story, encoding="utf-8")
    data = ["data=text_corpus", "data.path=story.txt", "data.sequence_length=16", "data.cache_dir=cache"]
    train = [*MODEL, *data, "trainer.gpus=0", "trainer.max_duration=4step", "trainer.batch_size=8"]
    done = shell.run(*train, "data.tokenizer=bpe", "data.vocab_size=280", "name=first")
    assert "bits per byte" in done.stdout
    assert "bits per byte" in shell.run("eval", "checkpoint=latest").stdout
    (run,) = shell.runs()
    shutil.copy(run / "checkpoints/step-00000004/tokenizer.json", shell.folder / "ours.json")
    shell.run(*train, "data.tokenizer=file", "data.tokenizer_path=ours.json", "name=second")
    for name in ("ours.json", "story.txt", "cache"):  # a checkpoint needs none of them
        (shell.folder / name).rename(shell.folder / f"gone-{name}")
    second = next(run for run in shell.runs() if "second" in str(run))
    done = shell.run("generate", f"checkpoint={second}", "prompt=日本 <|endoftext|>", "max_tokens=8", "temperature=0")
    assert done.stdout.startswith("日本 <|endoftext|>") and "Ġ" not in done.stdout


def test_an_image_model_generates_no_text(shell):
    shell.run(*GLYPHS, "trainer.gpus=0", "trainer.max_duration=2step")
    done = shell.run("generate", "checkpoint=latest", "prompt=x", code=2)
    assert "generates no text" in done.stderr
    assert "accuracy" in shell.run("eval", "checkpoint=latest").stdout


@pytest.mark.parametrize("verb", ["eval", "generate"])
def test_no_checkpoint_is_a_sentence(shell, verb):
    assert "checkpoint" in shell.run(verb, code=2).stderr
    assert "no checkpoint at nowhere" in shell.run(verb, "checkpoint=nowhere", code=4).stderr
    assert list(shell.folder.iterdir()) == []


def test_a_damaged_checkpoint_is_named(trained, shell):
    (run,) = trained.runs()
    shutil.copytree(run / "checkpoints/step-00000020", shell.folder / "step-00000020")
    (shell.folder / "step-00000020/tokenizer.json").write_text("{}")
    done = shell.run("generate", "checkpoint=step-00000020", "prompt=x", code=4)
    assert "tokenizer.json" in done.stderr
