"""What is measured: shapes of models and batches, each as bigtrain's settings and as a plain model; data is random.

Rows stand in order of importance: a run that is cut has measured the first ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import plain
from bigtrain.data.base import DataModule, Dataset, DataSpec
from bigtrain.models.config import (
    Activation,
    BertConfig,
    LSTMConfig,
    Norm,
    Positional,
    ProjectionInit,
    TransformerConfig,
)
from bigtrain.models.vision.config import CNNConfig, MLPConfig, ResNetConfig
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig, MaskedLanguageModelingConfig

BERT_TOKENS = {"begin": 1, "separator": 2, "mask": 3}


class RandomData(DataModule, Dataset):
    """Samples from tensors; every split is the training split, and nothing is kept on disk."""

    def __init__(self, spec: DataSpec, samples: dict[str, Tensor]):
        self.spec, self._samples = spec, samples

    def dataset(self, split: str) -> Dataset:
        return self

    def __len__(self) -> int:
        return self.spec.sizes["train"]

    def gather(self, ids: Any) -> dict[str, Tensor]:
        chosen = torch.from_numpy(ids)
        return {name: values[chosen] for name, values in self._samples.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A model and its batch. `batch`: samples a step, in micro-batches of `micro` where that is given.

    `peers`: that take part, None: all. `quick`: `--quick` leaves it all of them, and not one loop only.
    `gpu_precisions`: of the tables on a GPU. `gpu_seconds`: about what the row takes there; `gpu_gib`: memory that all
    its sides need at once. `gate`: steps whose losses must agree, None: as many as the protocol has. Batch norm goes
    with SGD: AdamW's first steps are signs of gradients, so that rounding alone takes losses apart by a percent within
    two steps.
    """

    batch: int
    micro: int | None = None
    optimizer: str = "adamw"
    peers: tuple[str, ...] | None = None
    quick: bool = False
    gpu_precisions: tuple[str, ...] = ("bf16",)
    gpu_seconds: int = 60
    gpu_gib: int = 0
    gate: int | None = None

    @property
    def units(self) -> tuple[int, str]:
        """What a step works through: how many, of what."""
        raise NotImplementedError

    def settings(self) -> tuple[Any, Any]:
        """bigtrain's model and task."""
        raise NotImplementedError

    def data(self) -> DataModule:
        """Random samples, the same each time."""
        raise NotImplementedError

    def plain(self) -> nn.Module:
        """The peers' model."""
        raise NotImplementedError

    def ready(self, loader: Any, step: int) -> dict[str, Tensor]:
        """A step's batch for the peers, whole, as bigtrain's `loader` makes it."""
        parts = loader.micro_batches(step)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def flops(self, counted: float) -> float:
        """Of a step; `counted`: as bigtrain counts products, convolutions and attention."""
        return counted


@dataclass(frozen=True, kw_only=True)
class Text(Row):
    """Rows whose samples are tokens."""

    width: int
    layers: int
    heads: int = 1
    length: int
    vocab: int

    @property
    def units(self) -> tuple[int, str]:
        return self.batch * self.length, "tokens"

    def data(self, special: dict[str, int] | None = None) -> DataModule:
        count, generator = 16 * self.batch, torch.Generator().manual_seed(0)
        tokens = torch.randint(self.vocab, (count, self.length + 1), generator=generator)
        shape = {"vocab_size": self.vocab, "sequence_length": self.length}
        spec = DataSpec("text", "random", {"train": count}, special_tokens=special or {}, **shape)  # type: ignore[arg-type]
        return RandomData(spec, {"tokens": tokens})


@dataclass(frozen=True, kw_only=True)
class GPT(Text):
    """GPT-2's architecture; `modern`: bigtrain's default transformer."""

    modern: bool = False

    def settings(self) -> tuple[Any, Any]:
        shape = {"hidden_size": self.width, "num_layers": self.layers, "num_heads": self.heads}
        older = {
            "norm": Norm.layernorm,
            "positional": Positional.learned,
            "activation": Activation.gelu_tanh,
            "qk_norm": False,
            "tie_embeddings": True,
            "projection_init": ProjectionInit.scaled,
        }
        extra: dict[str, Any] = {} if self.modern else older
        return TransformerConfig(max_length=self.length, **shape, **extra), LanguageModelingConfig()

    def plain(self) -> nn.Module:
        return plain.GPT(self.vocab, self.length, self.width, self.layers, self.heads, self.modern)

    def flops(self, counted: float) -> float:
        """By the usual formula: 6 N + 12 L D T for each token, positions left out of N."""
        parameters = 12 * self.layers * self.width**2 + self.vocab * self.width
        return self.batch * self.length * (6.0 * parameters + 12 * self.layers * self.width * self.length)


@dataclass(frozen=True, kw_only=True)
class Bert(Text):
    """BERT on masked tokens."""

    def data(self, special: dict[str, int] | None = None) -> DataModule:
        return super().data(BERT_TOKENS)

    def settings(self) -> tuple[Any, Any]:
        shape = {"hidden_size": self.width, "num_layers": self.layers, "num_heads": self.heads}
        return BertConfig(max_length=self.length, dropout=0.0, **shape), MaskedLanguageModelingConfig()

    def plain(self) -> nn.Module:
        return plain.Bert(self.vocab, self.length, self.width, self.layers, self.heads)


@dataclass(frozen=True, kw_only=True)
class LSTM(Text):
    """A language model whose windows start from zeros."""

    def settings(self) -> tuple[Any, Any]:
        model = LSTMConfig(hidden_size=self.width, num_layers=self.layers, carry_state=False)
        return model, LanguageModelingConfig()

    def plain(self) -> nn.Module:
        return plain.LSTM(self.vocab, self.width, self.layers)


@dataclass(frozen=True, kw_only=True)
class Images(Row):
    """Classification of images."""

    shape: tuple[int, int, int]
    classes: int = 10
    model: Callable[[], Any]
    peer: Callable[[], nn.Module]

    @property
    def units(self) -> tuple[int, str]:
        return self.batch, "images"

    def data(self) -> DataModule:
        count, generator = 16 * self.batch, torch.Generator().manual_seed(0)
        images = torch.randint(256, (count, *self.shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(self.classes, (count,), generator=generator)
        channels = self.shape[0]
        spec = DataSpec(
            "images",
            "random",
            {"train": count},
            input_shape=self.shape,
            num_classes=self.classes,
            labels=tuple(map(str, range(self.classes))),
            normalization={"mean": [plain.MEAN] * channels, "std": [plain.STD] * channels},
        )
        return RandomData(spec, {"images": images, "labels": labels})

    def ready(self, loader: Any, step: int) -> dict[str, Tensor]:
        """Pixels as they are: normalising them is work of the step, on every side."""
        samples: dict[str, Tensor] = loader.dataset.gather(loader.ids(step))
        return samples

    def settings(self) -> tuple[Any, Any]:
        return self.model(), ClassificationConfig()

    def plain(self) -> nn.Module:
        return self.peer()


GREY, COLOUR, LARGE = (1, 28, 28), (3, 32, 32), (3, 224, 224)
_124M: dict[str, Any] = {"layers": 12, "width": 768, "heads": 12, "length": 1024, "vocab": 50257}

CPU_ROWS: dict[str, Row] = {
    "gpt_4x128": GPT(layers=4, width=128, heads=4, length=64, batch=12, vocab=65, quick=True),
    "gpt_6x384": GPT(layers=6, width=384, heads=6, length=256, batch=16, vocab=65),
    "gpt_12x768": GPT(layers=12, width=768, heads=12, length=512, batch=4, vocab=8192),
    "bert_mini": Bert(layers=4, width=256, heads=4, length=128, batch=16, vocab=8192),
    "lstm_2x512": LSTM(layers=2, width=512, length=64, batch=16, vocab=65),
    "cnn": Images(shape=GREY, batch=128, model=CNNConfig, peer=partial(plain.cnn, GREY, 10)),
    "resnet_20": Images(
        shape=COLOUR,
        batch=64,
        optimizer="sgd",
        model=partial(ResNetConfig, depth=20),
        peer=partial(plain.resnet, 20, 3, 10),
    ),
    "mlp": Images(shape=GREY, batch=128, model=MLPConfig, peer=partial(plain.mlp, 784, (256, 256), 10)),
}
GPU_ROWS: dict[str, Row] = {
    "gpt2_124m": GPT(**_124M, batch=16, gpu_seconds=130),
    "transformer": GPT(
        layers=2,
        width=128,
        heads=2,
        length=128,
        batch=32,
        vocab=256,
        modern=True,
        quick=True,
        gpu_precisions=("bf16", "fp32"),
    ),
    "gpt2_1.5b": GPT(
        layers=48,
        width=1600,
        heads=25,
        length=1024,
        batch=8,
        vocab=50257,
        peers=("compiled",),
        gpu_seconds=170,
        gpu_gib=95,
    ),
    "bert_base": Bert(layers=12, width=768, heads=12, length=128, batch=64, vocab=30522, gpu_seconds=70),
    "resnet_50": Images(
        shape=LARGE,
        batch=64,
        classes=1000,
        optimizer="sgd",
        model=partial(ResNetConfig, depth=50),
        peer=partial(plain.resnet, 50, 3, 1000),
        gpu_seconds=80,
    ),
    "gpt2_124m_muon": GPT(**_124M, batch=16, optimizer="muon", peers=("adamw",), gate=1, gpu_seconds=60),
    "gpt2_124m_b64": GPT(**_124M, batch=64, micro=32, peers=("compiled",), gpu_seconds=90),
}
