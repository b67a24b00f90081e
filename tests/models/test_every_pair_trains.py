"""For every backbone with every task and kind of data: stopped, saved and resumed it ends with the same bytes; and what
is loaded from its checkpoint answers as the network that was trained does.
"""

import os
import signal
from dataclasses import replace

import pytest
import torch
from tiny_runs import STEPS, make_trainer, runs

from bigtrain.distributed.world import World
from bigtrain.models.config import TransformerConfig
from bigtrain.models.transformer import Transformer
from bigtrain.optim.config import AdamWConfig
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate
from bigtrain.tasks.seq2seq import Seq2Seq
from bigtrain.training.snapshot import load_evaluated_weights

RUNS = runs()
EVERY_RUN = pytest.mark.parametrize("name", RUNS)
ALONE = World(0, 1, torch.device("cpu"))
STOPPED_AFTER = 3
DROPOUT = 0.2


def trainer_of(name, run_dir, **settings):
    """With dropout where the model has it."""
    model, task, spec = RUNS[name]
    if hasattr(model, "dropout"):
        model = replace(model, dropout=DROPOUT)
    return make_trainer((model, task, spec), run_dir, ALONE, AdamWConfig(learning_rate=1e-2), **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """trained(name) → a trainer that has gone to the end without a stop; each trains once."""
    finished = {}

    def train(name):
        if name not in finished:
            trainer = trainer_of(name, tmp_path_factory.mktemp(name))
            assert trainer.fit() == ""
            finished[name] = trainer
        return finished[name]

    return train


def stop_in_step(trainer, number):
    """A real SIGTERM while step `number` is computed."""
    real = trainer.update

    def update(step, loss):
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)
        real(step, loss)

    trainer.update = update


def tensor_files(trainer):
    return {file.name: file.read_bytes() for file in trainer.checkpoints.path_of(STEPS).glob("*.safetensors")}


@EVERY_RUN
def test_stopped_and_resumed_it_ends_with_the_same_bytes(name, trained, tmp_path):
    stopped = trainer_of(name, tmp_path)
    stop_in_step(stopped, STOPPED_AFTER - 1)
    with stopped.stop:
        assert stopped.fit() == "SIGTERM"
    resumed = trainer_of(name, tmp_path, resume=True)
    assert resumed.state.step == STOPPED_AFTER
    assert resumed.fit() == ""
    whole = tensor_files(trained(name))
    _, task, _ = RUNS[name]
    carries = resumed.module.network.backbone.carries_state and isinstance(task, LanguageModelingConfig)
    assert set(whole) == {"model.safetensors", "optimizer.safetensors"} | (
        {"carried.safetensors"} if carries else set()
    )
    assert tensor_files(resumed) == whole

    def last_rows(trainer):
        return [
            {tag: value for tag, value in row.items() if tag.startswith(("train/", "val/", "optim/"))}
            for row in trainer.rows
            if row["step"] > STOPPED_AFTER
        ]

    assert last_rows(resumed) == last_rows(trained(name))


@EVERY_RUN
def test_what_is_loaded_answers_as_what_was_trained(name, trained, tmp_path):
    trainer = trained(name)
    other = trainer_of(name, tmp_path, seed=1)
    before = answer(name, other)
    load_evaluated_weights(other.module.network, trainer.checkpoints.newest())
    torch.testing.assert_close(answer(name, other), answer(name, trainer), rtol=0, atol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(before, answer(name, trainer), rtol=0, atol=0)


def test_a_model_that_generates_no_text_needs_no_initial_state(tmp_path, monkeypatch):
    monkeypatch.setattr(TransformerConfig, "generates", False)
    monkeypatch.delattr(Transformer, "initial_state")
    name = "transformer-language_modeling-text"
    trainer = trainer_of(name, tmp_path)
    assert trainer.fit() == ""
    assert answer(name, trainer)["loss"].isfinite()


def answer(name, trainer):
    """What the network says of validation samples: a continuation, translations, predictions; or else its loss."""
    task, network = trainer.module.task, trainer.module.network.eval()
    batch, _ = next(iter(trainer.evaluator.batches("val")))
    if "language_model" in network.heads and RUNS[name][0].generates:
        return continued(network, batch["inputs"][:, :4])
    if isinstance(task, Seq2Seq):
        return translated(task, network, batch)
    if hasattr(task, "predict"):
        predicted = task.predict(network, batch)
        assert len(predicted) == len(batch["inputs"]) and predicted.isfinite().all()
        return predicted
    with torch.inference_mode():
        return {name: term.sum for name, term in task.compute_loss(network, batch).terms.items()}


def continued(network, prompt_BT):
    """The greedy continuation, with the state kept, which is that of reading everything again for each token."""
    tokens_BT = prompt_BT
    with torch.inference_mode():
        for _ in range(8):
            next_B = network(tokens_BT).predictions["language_model"].last_logits().argmax(dim=-1)
            tokens_BT = torch.cat((tokens_BT, next_B[:, None]), dim=1)
        last_logits_BV = network(tokens_BT).predictions["language_model"].last_logits()
    new_BT = generate(network, prompt_BT, 8, Sampling(temperature=0))
    assert torch.equal(new_BT, tokens_BT[:, prompt_BT.shape[1] :])
    return last_logits_BV


def translated(task, network, batch):
    """The greedy targets, with the state kept, which are those of reading everything again for each token."""
    greedy = replace(task.search, num_beams=1)
    for row, hypotheses in enumerate(task.write(network, batch, greedy)):
        source = {name: batch[name][row : row + 1] for name in ("source", "source_lengths")}
        ids = [task.begin_id]
        for _ in range(len(hypotheses[0].ids) + hypotheses[0].ended):
            with torch.inference_mode():
                lengths = torch.tensor([len(ids)])
                logits_1V = network(torch.tensor([ids]), lengths=lengths, **source).predictions["seq2seq"].last_logits()
            ids.append(int(logits_1V.argmax()))
        assert ids[1:] == hypotheses[0].ids + [task.end_id] * hypotheses[0].ended
    best = task.write(network, batch)
    return torch.tensor([hypothesis.score for hypotheses in best for hypothesis in hypotheses])
