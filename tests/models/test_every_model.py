"""What holds for every registered backbone with the task that suits it."""

import pytest
import torch
from tiny_networks import perturb, samples, spec_for, tiny_config, tiny_network

from bigtrain.registry import MODELS

EVERY = pytest.mark.parametrize("entry", list(MODELS), ids=lambda entry: entry.name)


def batch_of(task, config, count=8, seed=0):
    return task.collate(samples(spec_for(config), count, seed), training=True)


@EVERY
def test_forward_backward_gives_a_finite_gradient_to_every_weight(entry):
    config = tiny_config(entry.config_class)
    task, network = tiny_network(config)
    perturb(network)
    term = task.compute_loss(network, batch_of(task, config)).terms["loss"]
    (term.sum / term.count).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@EVERY
def test_overfits_eight_samples(entry):
    config = tiny_config(entry.config_class)
    task, network = tiny_network(config)
    batch = batch_of(task, config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(150):
        term = task.compute_loss(network, batch).terms["loss"]
        optimizer.zero_grad()
        (term.sum / term.count).backward()
        optimizer.step()
    assert term.sum / term.count < 0.05


@EVERY
def test_accumulating_parts_of_any_size_equals_one_batch(entry):
    config = tiny_config(entry.config_class)
    task, network = tiny_network(config)
    perturb(network.double())
    batch = {key: x.double() if x.is_floating_point() else x for key, x in batch_of(task, config).items()}
    scored = "targets" if "targets" in batch else "labels"
    batch[scored].view(-1)[[1, 2, -1]] = -100  # unequal counts: dividing by the number of parts would be wrong
    total = task.counts(batch)["loss"]

    def gradients(parts):
        network.zero_grad()
        loss = 0.0
        for part in parts:
            term = task.compute_loss(network, part).terms["loss"]
            assert term.count == task.counts(part)["loss"]
            (term.sum / total).backward()
            loss += (term.sum / total).item()
        return loss, [parameter.grad.clone() for parameter in network.parameters()]

    whole = gradients([batch])
    pieces = zip(*(x.split((1, 5, 2)) for x in batch.values()), strict=True)
    parted = gradients([dict(zip(batch, piece, strict=True)) for piece in pieces])
    torch.testing.assert_close(parted, whole, rtol=1e-10, atol=1e-12)


@EVERY
def test_bf16_autocast_is_close_to_fp32(entry):
    config = tiny_config(entry.config_class)
    task, network = tiny_network(config)
    perturb(network, 0.1)
    batch = batch_of(task, config)
    exact = task.compute_loss(network, batch).terms["loss"].sum
    with torch.autocast("cpu", torch.bfloat16):
        low = task.compute_loss(network, batch).terms["loss"].sum
    low.backward()
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=2e-2, atol=0)
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())


@EVERY
def test_dropout_acts_in_training_only(entry):
    config = tiny_config(entry.config_class, dropout=0.5)
    task, network = tiny_network(config)
    perturb(network)
    batch = batch_of(task, config)

    def loss():
        return task.compute_loss(network, batch).terms["loss"].sum

    assert loss() != loss()
    network.eval()
    assert loss() == loss()


@EVERY
def test_same_seed_same_weights(entry):
    config = tiny_config(entry.config_class)
    first, second, other = (tiny_network(config, seed)[1].state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@EVERY
def test_runs_on_the_meta_device(entry):
    config = tiny_config(entry.config_class)
    task, _ = tiny_network(config)
    batch = {key: x.to("meta") for key, x in batch_of(task, config).items()}
    with torch.device("meta"):
        task, network = tiny_network(config)
        task.compute_loss(network, batch).terms["loss"].sum.backward()
    assert all(parameter.grad.is_meta for parameter in network.parameters())


@EVERY
def test_blocks_are_a_module_list_that_can_be_compiled_one_by_one(entry):
    _, network = tiny_network(tiny_config(entry.config_class))
    assert isinstance(network.backbone.blocks, torch.nn.ModuleList) and len(network.backbone.blocks) == 2
    assert isinstance(network.backbone.hidden_size, int)
