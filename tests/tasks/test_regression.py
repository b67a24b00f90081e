"""Regression: standardised values, metrics in the data's units against a plain computation, predictions."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_networks import IMAGES, SENTENCES, VALUES, VECTORS, perturb, samples, tiny_config, tiny_network

from bigtrain.errors import ConfigError
from bigtrain.models.config import TransformerConfig
from bigtrain.models.vision.config import CNNConfig, MLPConfig
from bigtrain.tasks.base import evaluation_totals
from bigtrain.tasks.config import RegressionConfig
from bigtrain.tasks.regression import Regression
from tests.config.composing import composed, refusal

SPEC = dataclasses.replace(VECTORS, **VALUES)
MEAN, STD = torch.tensor(VALUES["value_normalization"]["mean"]), torch.tensor(VALUES["value_normalization"]["std"])
CASES = [(MLPConfig, VECTORS), (MLPConfig, IMAGES), (CNNConfig, IMAGES), (TransformerConfig, SENTENCES)]


def network_for(config_class=MLPConfig, spec=VECTORS):
    spec = dataclasses.replace(spec, **VALUES)
    task, network = tiny_network(tiny_config(config_class), task_config=RegressionConfig(), spec=spec)
    return task, perturb(network).eval(), spec


def whole_split(task, network, gathered, *cuts):
    """Metrics over these samples, evaluated in pieces."""
    sums = {}
    for first, last in zip((0, *cuts), (*cuts, len(gathered["values"])), strict=True):
        piece = {name: value[first:last] for name, value in gathered.items()}
        output = task.compute_loss(network, task.collate(piece, training=False))
        for name, total in evaluation_totals(output).items():
            sums[name] = sums.get(name, 0) + total
    return task.metrics(sums, "val")


@pytest.mark.parametrize(
    ("model", "spec"), CASES, ids=lambda case: getattr(case, "kind", getattr(case, "__name__", ""))
)
def test_metrics_are_those_of_the_predictions_in_the_datas_units(model, spec):
    task, network, spec = network_for(model, spec)
    gathered = samples(spec, 16)
    true = gathered["values"].double().numpy()
    predicted = task.predict(network, task.collate(gathered, training=False)).numpy()
    errors = predicted - true
    expected = {
        "loss": np.square(errors / STD.numpy()).mean(),
        "mse": np.square(errors).mean(),
        "mae": np.abs(errors).mean(),
        "r2": np.mean(1 - np.square(errors).sum(axis=0) / np.square(true - true.mean(axis=0)).sum(axis=0)),
    }
    assert whole_split(task, network, gathered) == pytest.approx(expected, rel=1e-5)
    assert whole_split(task, network, gathered, 1, 5, 11) == pytest.approx(expected, rel=1e-5)


def test_metrics_by_hand():
    """Values 1, 3 predicted as 2, 3: square errors 1, 0 around a variation of 2; the second value never varies."""
    spec = dataclasses.replace(SPEC, value_normalization={"mean": [2.0, 5.0], "std": [2.0, 1.0]}, optimal_loss=0.1)
    task = Regression(RegressionConfig(), spec)
    errors, values = torch.tensor([[0.5, 0.0], [0.0, 0.0]]), torch.tensor([[-0.5, 0.0], [0.5, 0.0]])

    class Told(torch.nn.Module):
        def forward(self, inputs):
            from bigtrain.models.network import NetworkOutput

            return NetworkOutput({"regression": values + errors}, None)

    output = task.compute_loss(Told().eval(), {"inputs": values, "values": values})
    metrics = task.metrics(evaluation_totals(output), "val")
    expected = {"loss": 0.0625, "mse": 0.25, "mae": 0.25, "r2": (0.5 + 0.0) / 2, "excess": -0.0375}
    assert metrics == pytest.approx(expected)


def test_values_are_standardised_and_predictions_are_not():
    task, network, spec = network_for()
    gathered = samples(spec, 5)
    before = {name: value.clone() for name, value in gathered.items()}
    batch = task.collate(gathered, training=True)
    torch.testing.assert_close(batch["values"], (before["values"] - MEAN) / STD)
    assert batch["values"].dtype is torch.float32
    assert all(torch.equal(gathered[name], value) for name, value in before.items())
    raw = network(batch["inputs"]).predictions["regression"].double()
    torch.testing.assert_close(task.predict(network, batch), raw * STD + MEAN)


def test_a_large_offset_costs_no_precision():
    spec = dataclasses.replace(SPEC, value_normalization={"mean": [1e6, 1e6], "std": [0.5, 0.5]})
    task = Regression(RegressionConfig(), spec)
    gathered = samples(VECTORS, 2) | {"values": torch.tensor([[1e6, 1e6 + 0.5], [1e6 - 0.5, 1e6]])}
    assert task.collate(gathered, training=True)["values"].tolist() == [[0, 1], [-1, 0]]


def test_statistics_only_in_eval_mode():
    task, network, spec = network_for()
    batch = task.collate(samples(spec, 4), training=True)
    assert task.compute_loss(network.train(), batch).statistics == {}
    assert all(value.shape == (2,) for value in task.compute_loss(network.eval(), batch).statistics.values())


def test_what_has_no_values_is_refused():
    with pytest.raises(ConfigError, match="needs samples with values"):
        Regression(RegressionConfig(), VECTORS)


def test_in_words():
    config = composed("model=mlp", "data=synthetic/linear", "task=regression").config
    assert type(config.task) is RegressionConfig
    said = refusal("model=cnn", "task=regression")
    assert "the data gives images with classes, but the task needs values" in said
    assert "data=synthetic/disks" in said and "data=synthetic/linear" not in said
    said = refusal("model=mlp", "data=synthetic/linear")
    assert "the data gives vectors with values, but the task needs classes" in said
    assert "data=synthetic/gaussian_mixture" in said
