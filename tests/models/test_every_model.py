"""What holds for every registered backbone with every task that it can serve."""

import pytest
import torch
from tiny_networks import TASK_SETTINGS, learning, perturb, samples, serving, spec_for, tiny_config, tiny_network

from bigtrain.config.kinds import ModelConfig
from bigtrain.nn.cross_entropy import Chunking
from bigtrain.nn.heads import VocabularyHead
from bigtrain.registry import MODELS, TASKS

PAIRS = list(serving())


def of_pairs(pairs):
    return pytest.mark.parametrize("pair", pairs, ids=lambda pair: f"{pair[0].name}-{pair[1].name}-{pair[2].kind}")


WITH_A_VOCABULARY = ("language_modeling", "masked_lm", "seq2seq")
EVERY_PAIR = of_pairs(PAIRS)
EVERY_PAIR_THAT_LEARNS = of_pairs([pair for pair in PAIRS if pair[0] in learning()])
EVERY_ONE_THAT_LEARNS = pytest.mark.parametrize("entry", learning(), ids=lambda entry: entry.name)


def build(pair, seed=0, **changes):
    model, task, spec = pair
    settings = TASK_SETTINGS.get(task.config_class, {})
    return tiny_network(tiny_config(model.config_class, **changes), seed, task.config_class(**settings), spec)


def batch_of(task, pair, count=8, seed=0):
    return task.collate(samples(pair[2], count, seed), training=True)


def objective(task, output, batch):
    """As the trainer has it: every term by its own count."""
    counts = task.counts(batch)
    return sum(term.weight * term.sum / counts[name] for name, term in output.terms.items())


def test_every_model_and_every_task_serves():
    assert {model.name for model, _, _ in PAIRS} == set(MODELS.names())
    assert {task.name for _, task, _ in PAIRS} == set(TASKS.names())


def test_a_model_without_a_small_size_fails_with_what_to_add_where():
    with pytest.raises(LookupError, match=r"no small size of NewConfig: add it to TINY in tests/tiny_networks\.py"):
        tiny_config(type("NewConfig", (ModelConfig,), {}))


@EVERY_PAIR
def test_forward_backward_gives_a_finite_gradient_to_every_weight(pair):
    task, network = build(pair)
    perturb(network)
    batch = batch_of(task, pair)
    objective(task, task.compute_loss(network, batch), batch).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@of_pairs([pair for pair in PAIRS if pair[0] in learning() and pair[1].name in WITH_A_VOCABULARY])
def test_a_vocabulary_head_in_padded_chunks_computes_the_plain_loss(pair):
    """As on a GPU: rows of the weight padded, and a few logits in memory at once; MLM and sequence pairs included."""
    results = []
    for chunking in (Chunking(), Chunking(max_logits=3 * 11, plain_logits=0, alignment=64)):
        task, network = build(pair)
        heads = [head for head in network.heads.values() if isinstance(head, VocabularyHead)]
        assert heads
        perturb(network)
        network.double()
        for head in heads:
            head.chunking = chunking
        batch = batch_of(task, pair)
        loss = objective(task, task.compute_loss(network, batch), batch)
        results.append([loss.detach(), *torch.autograd.grad(loss, list(network.parameters()))])
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain, rtol=1e-10, atol=1e-12)


@EVERY_PAIR_THAT_LEARNS
def test_overfits_eight_samples(pair):
    task, network = build(pair)
    batch = batch_of(task, pair)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(200):
        loss = objective(task, task.compute_loss(network, batch), batch)
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05


@EVERY_PAIR
def test_accumulating_parts_of_any_size_equals_one_batch(pair):
    task, network = build(pair)
    perturb(network.double())
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()  # its own statistics are those of a part, by its nature
    batch = {key: x.double() if x.is_floating_point() else x for key, x in batch_of(task, pair).items()}
    for scored in {"targets", "labels"} & set(batch):
        batch[scored].view(-1)[[1, 2, -1]] = -100  # unequal counts: dividing by the number of parts would be wrong
    total = task.counts(batch)

    def gradients(parts):
        network.zero_grad()
        loss = 0.0
        for part in parts:
            output, counts = task.compute_loss(network, part), task.counts(part)
            for name, term in output.terms.items():
                assert term.count == counts[name]
            part_loss = sum(term.weight * term.sum / total[name] for name, term in output.terms.items())
            part_loss.backward()
            loss += part_loss.item()
        return loss, [parameter.grad.clone() for parameter in network.parameters()]

    whole = gradients([batch])
    pieces = zip(*(x.split((1, 5, 2)) for x in batch.values()), strict=True)
    parted = gradients([dict(zip(batch, piece, strict=True)) for piece in pieces])
    torch.testing.assert_close(parted, whole, rtol=1e-10, atol=1e-12)


@EVERY_PAIR
def test_bf16_autocast_is_close_to_fp32(pair):
    task, network = build(pair)
    perturb(network, 0.1)
    batch = batch_of(task, pair)
    exact = objective(task, task.compute_loss(network, batch), batch)
    with torch.autocast("cpu", torch.bfloat16):
        low = objective(task, task.compute_loss(network, batch), batch)
    low.backward()
    torch.testing.assert_close(low, exact, rtol=2e-2, atol=0, check_dtype=False)
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@EVERY_PAIR
def test_dropout_acts_in_training_only(pair):
    if not hasattr(pair[0].config_class, "dropout"):
        pytest.skip("this model has no dropout")
    task, network = build(pair, dropout=0.5)
    perturb(network)
    batch = batch_of(task, pair)

    def loss():
        return objective(task, task.compute_loss(network, batch), batch)

    assert loss() != loss()
    network.eval()
    assert loss() == loss()


@EVERY_PAIR_THAT_LEARNS
def test_runs_on_the_meta_device(pair):
    task, _ = build(pair)
    batch = {key: x.to("meta") for key, x in batch_of(task, pair).items()}
    with torch.device("meta"):
        task, network = build(pair)
        terms = task.compute_loss(network, batch).terms
        sum(term.sum for term in terms.values()).backward()
    assert all(parameter.grad.is_meta for parameter in network.parameters())


@EVERY_ONE_THAT_LEARNS
def test_same_seed_same_weights(entry):
    config = tiny_config(entry.config_class)
    first, second, other = (tiny_network(config, seed)[1].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@EVERY_ONE_THAT_LEARNS
def test_blocks_are_a_module_list_that_can_be_compiled_one_by_one(entry):
    _, network = tiny_network(tiny_config(entry.config_class))
    assert isinstance(network.backbone.blocks, torch.nn.ModuleList) and len(network.backbone.blocks) >= 2
    assert isinstance(network.backbone.hidden_size, int)
    assert spec_for(tiny_config(entry.config_class)).kind in entry.config_class.consumes
