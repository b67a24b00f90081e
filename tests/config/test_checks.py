"""Combinations that can't work are refused before anything slow, with what would."""

from __future__ import annotations

import pytest

from tests.config.composing import composed, refusal

CONFLICTS = {
    ("model=transformer", "data=mnist"): "data=synthetic/copy, data=synthetic/markov",
    ("model=cnn", "data=python_docs"): "data=fashion_mnist, data=glyphs",
    ("model=cnn", "data=synthetic/gaussian_mixture"): "the data gives vectors, but the model can only use images",
    ("data=synthetic/gaussian_mixture",): "the data gives vectors, but the model and the task can only use",
    ("model=mlp", "data=synthetic/copy"): "data=synthetic/gaussian_mixture",
    ("model=cnn", "task=language_modeling"): "tasks that suit the model: task=classification",
    ("task=classification",): "the task can only use images",
    ("model=transformer", "task=masked_lm"): "has seen the whole text, which this model does not give",
    ("model=bert", "task=language_modeling"): "models that suit the data: model=gpt2",
    ("model=bert", "data.sequence_length=513"): "data.sequence_length is 513, but model.max_length is 512",
    ("data.sequence_length=4096",): "data.sequence_length is 4096, but model.max_length is 1024",
    ("model=lstm", "data.attend_across_documents=false"): "only a transformer that models language",
    ("model=bert", "data.attend_across_documents=false"): "only a transformer that models language",
    ("trainer.max_duration=30min",): "the schedule needs steps",
    ("trainer.max_duration=0step",): "nothing to train",
    ("scheduler.warmup=3min",): "use step, epoch, sample or tok",
    ("trainer.time_limit=3epoch",): "it must be a time above 0",
    ("trainer.eval_every=0step",): "trainer.eval_every is 0step",
    ("trainer.processes=3",): "batch_size is 32, which 3 ranks does not divide",
    ("trainer.gpus=2", "trainer.micro_batch_size=32"): "which 2 ranks times micro_batch_size=32 does not divide",
    ("trainer.gpus=2", "trainer.processes=2"): "give one of the two",
    ("trainer.rank_timeout=5step",): "it must be a time above 0",
    ("trainer.processes=0",): "trainer.processes is 0; it must be at least 1",
    ("trainer.max_restarts=2", "trainer.gpus=0"): "no effect on a single process",
    ("trainer.early_stopping.patience=2", "trainer.eval_every=null"): "evaluates only at the end",
    ("trainer.early_stopping.min_delta=0.1",): "no effect without patience",
    ("trainer.gpus=two",): "allowed: auto, 0, or a number",
    ("name=../x",): "one folder name",
    ("name=..",): "one folder name",
    ("name=a/b",): "one folder name",
    ("name=" + "x" * 101,): "one folder name",
    ("trainer.micro_batch_size=5",): "does not divide",
    ("trainer.micro_batch_size=many",): "allowed: a number of samples, auto, or null",
    ("trainer.micro_batch_size=0",): "it must be at least 1",
    ("trainer.micro_batch_size=auto", "trainer.batch_tokens=100"): "give one of the two",
    ("trainer.activation_checkpointing=0",): "allowed: off, full, attention, or a number N",
    ("trainer.activation_checkpointing=some",): "allowed: off, full, attention, or a number N",
    ("model.num_heads=3",): "does not divide",
}


@pytest.mark.parametrize("words", CONFLICTS, ids=" ".join)
def test_conflict_is_refused(words):
    assert CONFLICTS[words] in refusal(*words)


def test_a_launcher_starts_training_only(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    composed()
    assert "WORLD_SIZE is 2" in refusal("checkpoint=latest", verb="eval")


def test_what_fits_is_accepted():
    composed("trainer.max_duration=30min", "scheduler=constant")
    composed("trainer.eval_every=3min", "trainer.time_limit=2h", "trainer.gpus=1")
    composed("trainer.processes=4", "trainer.tensor_parallel=4", "trainer.batch_size=2")
    composed("model=cnn", "data=mnist")
    composed("trainer.micro_batch_size=auto", "trainer.gpus=2", "trainer.activation_checkpointing=3")
    composed("model=bert", "data=python_docs_topics")  # masked language modelling has no use for the labels
    composed("model=bert_base", "data=text_corpus", "data.path=x", "data.tokenizer=byte")
    composed("model=mlp", "data=synthetic/gaussian_mixture")
    composed("model=mlp", "data=synthetic/random_labels")
