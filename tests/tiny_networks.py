"""Small networks of every registered kind, for tests that hold for all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bigtrain.config.schema import register_parts
from bigtrain.data.base import Dataset, DataSpec
from bigtrain.data.loader import keyed_samples
from bigtrain.models.config import BertConfig, LSTMConfig, NgramConfig, Seq2SeqConfig, TransformerConfig
from bigtrain.models.network import Network, tie_weights
from bigtrain.models.vision.config import CNNConfig, MLPConfig, ResNetConfig, VGGConfig
from bigtrain.nn.init import draw_weights
from bigtrain.randomness import sample_keys
from bigtrain.registry import MODELS, TASKS

register_parts()

_SPECIAL = {"end_of_text": 10, "begin": 10, "separator": 10}
TEXT = DataSpec(
    kind="text", fingerprint="", sizes={"train": 8}, vocab_size=11, sequence_length=12, special_tokens=_SPECIAL
)
SENTENCES = replace(TEXT, kind="sentences", num_classes=4)
PAIRS = replace(TEXT, kind="pairs")
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
SPECS = {spec.kind: spec for spec in (TEXT, SENTENCES, PAIRS, IMAGES, VECTORS)}
VALUES = {"num_classes": None, "values": ("y", "z"), "value_normalization": {"mean": [0.3, -2.0], "std": [0.5, 4.0]}}

# A model registered later needs a line here, and the tests over the registry ask for it. Two blocks each.
TINY = {
    TransformerConfig: {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_length": 16},
    LSTMConfig: {"hidden_size": 24, "num_layers": 2},
    BertConfig: {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_length": 16, "dropout": 0.0},
    Seq2SeqConfig: {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_length": 16, "dropout": 0.0},
    CNNConfig: {"widths": [4, 6], "hidden_size": 16},
    ResNetConfig: {"depth": 8, "width": 4},
    VGGConfig: {"width": 4, "hidden_size": 16, "dropout": 0.0},
    NgramConfig: {"order": 3},
    MLPConfig: {"widths": [24, 16]},
}
# Settings of a task that its tests over all models need, beside the defaults.
TASK_SETTINGS: dict[type, dict] = {}


def serving():
    """(model, task, spec) for every kind of data with every pair that can serve it: the whole matrix."""
    for model in MODELS:
        config = tiny_config(model.config_class)
        for task in TASKS:
            needs = task.config_class.needs
            kinds = [kind for kind in task.config_class.consumes if kind in config.consumes]
            if needs in config.gives():
                changes = VALUES if task.config_class.target == "values" else {}
                yield from ((model, task, replace(SPECS[kind], **changes)) for kind in kinds)


def learning():
    """The registered models that learn by gradients all that they know, from weights drawn by a seed."""
    return [model for model in MODELS if not model.config_class.counts]


def tiny_config(config_class, **changes):
    """Settings of a registered model, small enough for a test."""
    if config_class not in TINY:
        name = config_class.__name__
        raise LookupError(f"the tests know no small size of {name}: add it to TINY in tests/tiny_networks.py")
    return config_class(**(TINY[config_class] | changes))


def spec_for(config):
    """Data that this model consumes."""
    return SPECS[config.consumes[0]]


def tiny_network(config, seed=0, task_config=None, spec=None):
    """(task, network) for a model's settings: for the first task that it can serve, where none is given."""
    torch.manual_seed(seed)
    spec = spec or spec_for(config)
    if task_config is None:
        possible = (entry.config_class for entry in TASKS if spec.kind in entry.config_class.consumes)
        task_config = next(task() for task in possible if task.needs in config.gives())
    task = TASKS.entry_of(task_config).load()(task_config, spec)
    backbone = MODELS.entry_of(config).load()(config, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config))
    tie_weights(network, config)
    if torch.get_default_device().type != "meta":
        draw_weights(network, seed)
        if config.counts:
            network.heads["language_model"].count(Memory(spec, spec.sizes["train"]))
    return task, network


def drawn(module, seed=0):
    """The module, with initial weights."""
    draw_weights(module, seed)
    return module


def perturb(network, scale=0.3, seed=1):
    """Adds noise to every weight, so that nothing that starts at zero hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return network


class Memory(Dataset):
    """A dataset of the samples of a spec that lie in memory, every time the same."""

    def __init__(self, spec, count, seed=0):
        rng = np.random.default_rng(seed)
        self.spec, self._count = spec, count
        self._samples = _draw(spec, count, rng)
        if spec.values:
            del self._samples["labels"]
            mean, std = spec.value_normalization["mean"], spec.value_normalization["std"]
            self._samples["values"] = rng.normal(mean, std, size=(count, len(spec.values))).astype(np.float32)
        if spec.kind in ("sentences", "pairs"):
            self.lengths = self._samples["lengths" if spec.kind == "sentences" else "target_lengths"]

    def __len__(self):
        return self._count

    def gather(self, ids):
        """As `data/base.py` has it."""
        samples = {name: torch.from_numpy(value[ids]) for name, value in self._samples.items()}
        for name, lengths in (("tokens", "lengths"), ("source", "source_lengths"), ("target", "target_lengths")):
            if lengths in samples:
                samples[name] = samples[name][:, : int(samples[lengths].max())]
        return samples


def samples(spec, count, seed=0):
    """As a loader gives them to `collate`, keys and partners included."""
    ids = np.arange(count)
    return keyed_samples(Memory(spec, count, seed), ids, sample_keys(seed, 0, ids), partners=True)


def _draw(spec, count, rng):
    labels = rng.integers(spec.num_classes or 2, size=count)
    if spec.kind == "text":
        tokens = rng.integers(spec.vocab_size, size=(count, spec.sequence_length + 1))
        tokens[:, 0] = np.arange(count) % spec.vocab_size  # tells samples apart: they can be memorised
        return {"tokens": tokens}
    if spec.kind == "sentences":
        tokens, lengths = _texts(spec, count, rng)
        return {"tokens": tokens, "lengths": lengths, "labels": labels}
    if spec.kind == "pairs":
        (source, source_lengths), (target, target_lengths) = _texts(spec, count, rng), _texts(spec, count, rng)
        return {
            "source": source,
            "source_lengths": source_lengths,
            "target": target,
            "target_lengths": target_lengths,
        }
    if spec.kind == "vectors":
        return {"vectors": rng.normal(size=(count, *spec.input_shape)).astype(np.float32), "labels": labels}
    return {"images": rng.integers(256, size=(count, *spec.input_shape), dtype=np.uint8), "labels": labels}


def _texts(spec, count, rng):
    """Padded texts of several lengths, framed by begin and separator, and their lengths."""
    lengths = rng.integers(5, spec.sequence_length + 1, size=count)
    tokens = rng.integers(spec.vocab_size - 1, size=(count, spec.sequence_length))
    tokens[:, 1] = np.arange(count) % (spec.vocab_size - 1)
    tokens[:, 0] = spec.special_tokens["begin"]
    tokens[np.arange(count), lengths - 1] = spec.special_tokens["separator"]
    tokens[np.arange(spec.sequence_length) >= lengths[:, None]] = 0
    return tokens, lengths
