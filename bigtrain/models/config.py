"""Settings of the backbones for sequences, and of the MLP; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.settings import setting
from bigtrain.registry import MODELS


class Norm(Enum):
    """Normalisation layer."""

    layernorm = "layernorm"
    rmsnorm = "rmsnorm"


class Positional(Enum):
    """How a transformer knows positions."""

    learned = "learned"
    sinusoidal = "sinusoidal"
    rope = "rope"


class Activation(Enum):
    """Feed-forward nonlinearity. relu2 is ReLU squared (Primer, arXiv:2109.08668)."""

    gelu = "gelu"
    gelu_tanh = "gelu_tanh"
    relu2 = "relu2"
    swiglu = "swiglu"


class MLPActivation(Enum):
    """Nonlinearity between the layers of an MLP."""

    relu = "relu"
    gelu = "gelu"
    tanh = "tanh"


class ProjectionInit(Enum):
    """Initialisation of the projections that write to the residual stream."""

    scaled = "scaled"
    zero = "zero"


@dataclass
class TransformerConfig(ModelConfig):
    """Decoder-only transformer, pre-norm."""

    consumes: ClassVar[tuple[str, ...]] = ("text", "sentences")
    generates: ClassVar[bool] = True

    hidden_size: int = setting(128, "Width D of the residual stream.", at_least=1)
    num_layers: int = setting(2, "Blocks.", at_least=1)
    num_heads: int = setting(2, "Attention heads H.", at_least=1)
    num_kv_heads: int | None = setting(
        None, "Key and value heads (grouped queries, arXiv:2305.13245); default: num_heads.", at_least=1
    )
    max_length: int = setting(1024, "Longest sequence, in tokens: positions that exist.", at_least=1)
    feedforward_size: int | None = setting(
        None, "Hidden width of the feed-forward part; default: 4 D, or 8/3 D for swiglu.", at_least=1
    )
    norm: Norm = setting(Norm.rmsnorm, "Normalisation layer.")
    positional: Positional = setting(Positional.rope, "How positions enter.")
    activation: Activation = setting(Activation.relu2, "Feed-forward nonlinearity.")
    qk_norm: bool = setting(True, "RMS-normalise queries and keys per head (arXiv:2302.05442).")
    tie_embeddings: bool = setting(False, "The output layer shares the token embedding's weight.")
    bias: bool = setting(False, "Biases in linear layers and norms.")
    dropout: float = setting(0.0, "Probability of dropping an activation.", at_least=0, below=1)
    logit_softcap: float | None = setting(None, "Bound the logits smoothly: c * tanh(logits / c) (Gemma 2).", above=0)
    projection_init: ProjectionInit = setting(
        ProjectionInit.zero, "Residual projections start at zero, or at std / sqrt(2 * num_layers) (GPT-2)."
    )
    init_std: float | None = setting(
        None, "Standard deviation of initial weights; default: 1 / sqrt(hidden_size).", above=0
    )
    norm_epsilon: float = setting(1e-5, "Added to the variance in norms.", above=0)
    rope_base: float = setting(10000.0, "Longest wavelength of RoPE, over 2 pi (arXiv:2104.09864).", above=1)

    def problems(self) -> list[str]:
        """Rules across fields."""
        found = []
        if self.hidden_size % self.num_heads:
            found.append(f"hidden_size is {self.hidden_size}, which num_heads={self.num_heads} does not divide")
        elif self.positional is Positional.rope and (self.hidden_size // self.num_heads) % 2:
            found.append(
                f"hidden_size / num_heads is {self.hidden_size // self.num_heads}; "
                "positional=rope turns pairs of features, so it must be even"
            )
        if self.positional is Positional.sinusoidal and self.hidden_size % 2:
            found.append(f"hidden_size is {self.hidden_size}; positional=sinusoidal needs an even width")
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            found.append(f"num_heads is {self.num_heads}, which num_kv_heads={self.num_kv_heads} does not divide")
        return found


@dataclass
class MLPConfig(ModelConfig):
    """Multilayer perceptron: [linear, norm, activation, dropout] per width, on flattened images or on vectors."""

    consumes: ClassVar[tuple[str, ...]] = ("images", "vectors")

    widths: list[int] = setting([256, 256], "Width of each hidden layer; [] makes a linear model.")
    activation: MLPActivation = setting(MLPActivation.relu, "Nonlinearity after each hidden layer.")
    batch_norm: bool = setting(
        False, "Batch normalisation after each linear layer (statistics per rank and micro-batch)."
    )
    dropout: float = setting(0.0, "Probability of dropping a hidden feature.", at_least=0, below=1)

    def problems(self) -> list[str]:
        """Rules across fields."""
        if any(width < 1 for width in self.widths):
            return [f"widths is {list(self.widths)}; each must be at least 1"]
        return []


MODELS.register("transformer", TransformerConfig, factory="bigtrain.models.transformer:Transformer")
MODELS.register("mlp", MLPConfig, factory="bigtrain.models.mlp:MLP")
