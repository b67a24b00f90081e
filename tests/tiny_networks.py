"""Small networks of every registered kind, for tests that hold for all of them."""

from __future__ import annotations

import numpy as np
import torch

from bigtrain.data.base import DataSpec
from bigtrain.models.config import CNNConfig, MLPConfig, TransformerConfig
from bigtrain.models.network import Network, tie_weights
from bigtrain.registry import MODELS
from bigtrain.tasks.classification import Classification
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig
from bigtrain.tasks.language_modeling import LanguageModeling

TEXT = DataSpec(kind="text", fingerprint="", sizes={"train": 8}, vocab_size=11, sequence_length=12)
IMAGES = DataSpec(
    kind="images",
    fingerprint="",
    sizes={"train": 8},
    input_shape=(3, 9, 10),
    num_classes=4,
    normalization={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
)

VECTORS = DataSpec(
    kind="vectors",
    fingerprint="",
    sizes={"train": 8},
    input_shape=(5,),
    num_classes=4,
    normalization={"mean": [0.5, -1.0, 0.0, 3.0, 0.1], "std": [0.2, 3.0, 1.0, 0.5, 2.0]},
)

# A model registered later needs a line here, and the tests over the registry ask for it.
TINY = {
    TransformerConfig: {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_length": 16},
    CNNConfig: {"widths": [4, 6], "hidden_size": 16},
    MLPConfig: {"widths": [24, 16]},
}


def tiny_config(config_class, **changes):
    """Settings of a registered model, small enough for a test."""
    return config_class(**(TINY[config_class] | changes))


def spec_for(config):
    """Data that this model consumes."""
    return TEXT if "text" in config.consumes else IMAGES


def tiny_network(config, seed=0):
    """(task, network) for a model's settings, on the data that it consumes."""
    torch.manual_seed(seed)
    spec = spec_for(config)
    if spec is TEXT:
        task = LanguageModeling(LanguageModelingConfig(), spec)
    else:
        task = Classification(ClassificationConfig(), spec)
    backbone = MODELS.entry_of(config).load()(config, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config))
    tie_weights(network, config)
    return task, network


def perturb(network, scale=0.3, seed=1):
    """Adds noise to every weight, so that nothing that starts at zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return network


def samples(spec, count, seed=0):
    """As a dataset's `gather` gives them."""
    rng = np.random.default_rng(seed)
    if spec.kind == "text":
        tokens = rng.integers(spec.vocab_size, size=(count, spec.sequence_length + 1))
        tokens[:, 0] = np.arange(count) % spec.vocab_size  # tells samples apart: they can be learnt by heart
        return {"tokens": torch.from_numpy(tokens)}
    if spec.kind == "vectors":
        vectors = torch.from_numpy(rng.normal(size=(count, *spec.input_shape)).astype(np.float32))
        return {"vectors": vectors, "labels": torch.from_numpy(rng.integers(spec.num_classes, size=count))}
    images = rng.integers(256, size=(count, *spec.input_shape), dtype=np.uint8)
    labels = rng.integers(spec.num_classes, size=count)
    return {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
