"""State carried over windows: what a step reads is what one long text would have left; nothing else disturbs it."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from bigtrain.build import build_data
from bigtrain.data.loader import evaluation_stream_count
from bigtrain.data.order import ContiguousOrder, ShuffledOrder
from bigtrain.data.synthetic.config import MarkovConfig
from bigtrain.data.text.config import TextCorpusConfig
from bigtrain.distributed.world import World
from bigtrain.errors import NumericsError
from bigtrain.models.config import LSTMConfig
from bigtrain.optim.config import SGDConfig
from bigtrain.training.evaluator import Evaluator
from bigtrain.training.recurrent_state import gather_state

from .conftest import tiny_config, with_trainer
from .test_trainer import float64, poison, weights  # noqa: F401 float64 is a fixture

MODEL = LSTMConfig(hidden_size=8, num_layers=2)
LENGTH = 16


@pytest.fixture
def config(tmp_path):
    """5 steps to an epoch: 45 windows in streams of 5, and 4 windows left out."""
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    text = "".join(chr(97 + number * number % 23) for number in range(5000))
    train.write_text(text[: 44 * LENGTH + 9])
    val.write_text(text[500 : 500 + 250 * LENGTH + 5])
    data = TextCorpusConfig(train_path=str(train), val_path=str(val), sequence_length=LENGTH, cache_dir=str(tmp_path))
    return tiny_config(model=MODEL, data=data, trainer={"log_every": 1, "eval_every": None})


def loss_of_whole(module, tokens, scored_from=0):
    """Sum of the cross entropy of one row in one pass, of the targets from a position on."""
    batch = {"inputs": tokens[None, :-1], "targets": tokens[None, 1:].clone()}
    batch["targets"][:, :scored_from] = -100
    with torch.no_grad():
        return module.task.compute_loss(module.network.eval(), batch).terms["loss"].sum.item()


def joined(windows):
    """Windows (N, T+1), each of which begins with the last token of the one before, as one text."""
    return torch.cat((windows[0, :1], windows[:, 1:].flatten()))


def test_each_step_reads_what_one_long_text_would_have_left(make_trainer, config, float64):  # noqa: F811
    still = replace(config, optimizer=SGDConfig(learning_rate=0.0))
    trainer = make_trainer(still)
    trainer.fit()
    order, dataset = trainer.loader.order, trainer.loader.dataset
    assert isinstance(order, ContiguousOrder) and order.steps_per_epoch == 5
    losses = {row["step"]: row["train/loss"] for row in trainer.recorder.rows if "train/loss" in row}
    for step in range(24):
        ids = np.stack([order.ids(earlier) for earlier in range(step - step % 5, step + 1)])
        total, count = 0.0, 0
        for stream in range(8):
            own = ids[:, stream]
            own = own[np.flatnonzero(own == 0)[-1] :] if 0 in own else own  # with the text, the stream begins
            samples = dataset.gather(own)
            text = joined(samples["tokens"])
            kept = int(samples["scored"].sum())  # the last window of all is not full
            total += loss_of_whole(trainer.module, text[: kept + 1], (len(own) - 1) * LENGTH)
            count += kept - (len(own) - 1) * LENGTH
        assert losses[step + 1] == pytest.approx(total / count, rel=1e-12), step


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulating_equals_one_batch_and_leaves_the_same_state(
    make_trainer,
    config,
    micro_batch_size,
    float64,  # noqa: F811
):
    config = with_trainer(replace(config, optimizer=SGDConfig(learning_rate=0.1)), max_duration="9step")
    whole = make_trainer(config, "whole")
    parts = make_trainer(with_trainer(config, micro_batch_size=micro_batch_size), "parts")
    whole.fit(), parts.fit()
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[name], rtol=0, atol=1e-12), name
    assert torch.allclose(whole.module.recurrent_state, parts.module.recurrent_state, rtol=0, atol=1e-12)


def test_the_state_is_saved_and_taken_up_again(make_trainer, config):
    trainer = make_trainer(config)
    trainer.fit()
    path = trainer.checkpoints.path_of(24) / "carried.safetensors"
    saved = safetensors.torch.load_file(path)["state"]
    assert saved.shape == (8, 2, 2, 8) and saved.abs().max() > 0
    assert torch.equal(make_trainer(config, resume=True).module.recurrent_state, saved)


def test_an_evaluation_leaves_the_state_and_the_weights_as_they_were(make_trainer, config):
    watched = make_trainer(with_trainer(config, eval_every="7step"), "watched")
    blind = make_trainer(config, "blind")
    watched.fit(), blind.fit()
    assert torch.equal(watched.module.recurrent_state, blind.module.recurrent_state)
    assert all(torch.equal(value, weights(blind)[name]) for name, value in weights(watched).items())


def test_an_evaluation_reads_long_texts_the_same_in_any_batch_and_rank(make_trainer, config, float64):  # noqa: F811
    trainer = make_trainer(config)
    module, data = trainer.module, trainer.evaluator.data
    dataset = data.dataset("val")
    stretches = np.array_split(np.arange(len(dataset)), 16)  # 251 windows: at least 15 each
    total = 0.0
    for stretch in stretches:
        samples = dataset.gather(stretch)
        total += loss_of_whole(module, joined(samples["tokens"])[: int(samples["scored"].sum()) + 1])

    def evaluated(batch_size, ranks=1):
        sums = {}
        for rank in range(ranks):
            world = World(rank, ranks, torch.device("cpu"))
            evaluator = Evaluator(module, module.task, data, trainer.precision, batch_size, world)
            with evaluator._evaluating("val"):
                for batch, counts in evaluator.batches("val"):
                    term = module(batch).terms["loss"]
                    for name, value in (("sum", term.sum), ("count", term.count), ("batches", torch.tensor(1))):
                        key = name if name != "batches" else f"batches {rank}"
                        sums[key] = sums.get(key, 0) + float(value) * (counts or name == "batches")
        return sums

    for batch_size, ranks in ((32, 1), (16, 1), (5, 1), (1, 1), (5, 2), (32, 3), (3, 4)):
        sums = evaluated(batch_size, ranks)
        assert sums["count"] == dataset.num_targets
        assert sums["sum"] == pytest.approx(total, rel=1e-12), (batch_size, ranks)
        assert len({sums[f"batches {rank}"] for rank in range(ranks)}) == 1, "every rank gets equally many"


def test_a_step_that_is_masked_leaves_the_state_alone(make_trainer, config):
    trainer = make_trainer(config)
    poison(trainer, 8)
    with pytest.raises(NumericsError):
        trainer.fit()
    clean = make_trainer(with_trainer(config, save_every="1step"), "clean")
    clean.fit()
    kept, expected = (
        safetensors.torch.load_file(some.checkpoints.path_of(8) / "carried.safetensors") for some in (trainer, clean)
    )
    assert torch.equal(kept["state"], expected["state"])


def test_windows_that_do_not_follow_each_other_are_shuffled_and_nothing_is_carried(make_trainer, config):
    independent = replace(config, data=MarkovConfig(sequence_length=16, train_tokens=1_000, eval_tokens=400))
    off = replace(config, model=replace(MODEL, carry_state=False))
    for other in (independent, off):
        trainer = make_trainer(other, "independent" if other is independent else "off")
        assert isinstance(trainer.loader.order, ShuffledOrder) and trainer.module.recurrent_state is None
        assert "streams" not in trainer.loader.micro_batches(0)[0]
        assert "carried.safetensors" not in trainer.snapshot.files()


def test_a_limited_stream_still_follows(config):
    assert build_data(with_trainer(config, limit_samples=20)).dataset("train").contiguous


def test_what_ranks_bring_together_is_each_ones_part(monkeypatch):
    """As two ranks would: each sends its own streams and zeros."""
    sent = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: sent.append(tensor.clone()))
    for rank in range(2):
        gather_state(torch.full((4, 3), rank + 1.0), World(rank, 2, torch.device("cpu")))
    assert sum(sent).tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2


def test_a_sample_of_validation_is_read_in_stretches_each_from_the_initial_state(make_trainer, config, float64):  # noqa: F811
    trainer = make_trainer(with_trainer(config, eval_samples="50", eval_every="12step", ema_decay=None))
    trainer.fit()
    rows = [row["val/loss"] for row in trainer.recorder.rows if "val/loss" in row]
    sample = trainer.evaluator.dataset("val")
    assert len(rows) == 2 and len(sample) == 50
    stretches = np.array_split(np.arange(50), evaluation_stream_count(50))
    texts = [joined(sample.gather(stretch)["tokens"]) for stretch in stretches]
    assert len(texts) == 4
    total = sum(loss_of_whole(trainer.module, text) for text in texts)
    assert rows[-1] == pytest.approx(total / (50 * LENGTH), rel=1e-9)
