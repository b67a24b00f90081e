"""`bigtrain model=ngram`: counted, evaluated, made to write, like every other model."""

import json

import numpy as np
import pytest

NGRAM = ["model=ngram", "model.order=4", "data=text_corpus", "data.path=story.txt", "data.sequence_length=32"]
NGRAM += ["data.cache_dir=cache", "trainer.gpus=0", "trainer.batch_size=8", "trainer.eval_every=3step"]

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "went", "away"]


def test_it_trains_evaluates_and_writes(shell):
    (shell.folder / "story.txt").write_text(" ".join(np.random.default_rng(0).choice(WORDS, 4000)))
    shell.run(*NGRAM, "trainer.max_duration=6step")
    done = shell.run("eval", "checkpoint=latest", "split=val")
    (run,) = shell.runs()
    metrics = shell.status(run)["metrics"]
    evaluated = json.loads((run / "eval.json").read_text())["metrics"]
    assert evaluated["loss"] == pytest.approx(metrics["val/loss"], rel=1e-6)
    assert metrics["val/loss"] < 0.7 * metrics["val/bigram_loss"] and "5gram loss" in done.stdout
    written = shell.run("generate", "checkpoint=latest", "prompt=the cat ", "max_tokens=60").stdout.split()[:-1]
    assert sum(word not in WORDS for word in written) <= 1
    files = {path.suffix for path in (run / "checkpoints/step-00000006").iterdir()}
    assert files == {".json", ".safetensors"}
