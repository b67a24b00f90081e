"""Settings of the backbones for sequences; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

from bigtrain.config.kinds import ModelConfig
from bigtrain.config.settings import Invalid, setting
from bigtrain.registry import MODELS


class Norm(Enum):
    """Normalisation layer."""

    layernorm = "layernorm"
    rmsnorm = "rmsnorm"


class Positional(Enum):
    """Position encoding of a transformer."""

    learned = "learned"
    sinusoidal = "sinusoidal"
    rope = "rope"


class Activation(Enum):
    """Feed-forward nonlinearity. relu2 is ReLU squared (Primer, arXiv:2109.08668)."""

    gelu = "gelu"
    gelu_tanh = "gelu_tanh"
    relu = "relu"
    relu2 = "relu2"
    swiglu = "swiglu"


class Cell(Enum):
    """What a recurrent layer does at each position: arXiv:1402.1128 (LSTM), arXiv:1406.1078 (GRU), tanh (RNN)."""

    lstm = "lstm"
    gru = "gru"
    rnn = "rnn"


class RecurrentInit(Enum):
    """Initialisation of recurrent weights and biases."""

    orthogonal = "orthogonal"
    torch = "torch"


class Pooling(Enum):
    """How the vectors of a text's tokens become one."""

    last = "last"
    mean = "mean"
    max = "max"


class NormPosition(Enum):
    """Where a block normalises: after adding to the residual stream, or what it reads from it."""

    post = "post"
    pre = "pre"


class ProjectionInit(Enum):
    """Initialisation of the projections that write to the residual stream."""

    scaled = "scaled"
    zero = "zero"


def _embedding_rows() -> Any:
    return setting(
        None,
        "Rows of the token embedding and of the output layer; default: one for each token. Rows beyond are never "
        "generated: padding, as many published models have it, or room for tokens to come.",
        at_least=1,
        at_most=1 << 20,
        before=None,
    )


@dataclass
class TransformerConfig(ModelConfig):
    """Decoder-only transformer, pre-norm."""

    consumes: ClassVar[tuple[str, ...]] = ("text", "sentences")
    generates: ClassVar[bool] = True
    masks_documents: ClassVar[bool] = True

    hidden_size: int = setting(128, "Width D of the residual stream.", at_least=1)
    num_layers: int = setting(2, "Blocks; with 0 and pooling=mean, a bag of embeddings.", at_least=0)
    num_heads: int = setting(2, "Attention heads H.", at_least=1)
    num_kv_heads: int | None = setting(
        None, "Key and value heads (grouped queries, arXiv:2305.13245); default: num_heads.", at_least=1
    )
    max_length: int = setting(1024, "Longest sequence, in tokens: positions that exist.", at_least=1)
    pooling: Pooling = setting(Pooling.last, "One vector for a text: of its last token, or over all tokens.")
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
    stochastic_depth: float = setting(
        0.0, "Probability of skipping the last block for a sample (arXiv:1603.09382); less before.", at_least=0, below=1
    )
    logit_softcap: float | None = setting(None, "Bound the logits smoothly: c * tanh(logits / c) (Gemma 2).", above=0)
    projection_init: ProjectionInit = setting(
        ProjectionInit.zero, "Residual projections start at zero, or at std / sqrt(2 * num_layers) (GPT-2)."
    )
    init_std: float | None = setting(
        None, "Standard deviation of initial weights; default: 1 / sqrt(hidden_size).", above=0
    )
    norm_epsilon: float = setting(1e-5, "Added to the variance in norms.", above=0)
    rope_base: float = setting(10000.0, "Longest wavelength of RoPE, over 2 pi (arXiv:2104.09864).", above=1)
    num_embeddings: int | None = _embedding_rows()

    def problems(self) -> list[Invalid]:
        found = []
        if self.hidden_size % self.num_heads:
            found.append(_uneven_heads(self.num_heads, self.hidden_size))
        elif self.positional is Positional.rope and (self.hidden_size // self.num_heads) % 2:
            found.append(
                Invalid(
                    "hidden_size",
                    f"/ num_heads is {self.hidden_size // self.num_heads}; "
                    "positional=rope turns pairs of features, so it must be even",
                )
            )
        if self.positional is Positional.sinusoidal and self.hidden_size % 2:
            found.append(Invalid("hidden_size", f"is {self.hidden_size}; positional=sinusoidal needs an even width"))
        if self.num_kv_heads and self.num_heads % self.num_kv_heads:
            fitting = _divisors_near(self.num_kv_heads, self.num_heads)
            found.append(
                Invalid(
                    "num_kv_heads",
                    f"is {self.num_kv_heads}, which does not divide num_heads={self.num_heads}; "
                    f"use num_kv_heads={fitting}",
                )
            )
        return found


@dataclass
class LSTMConfig(ModelConfig):
    """Recurrent network: LSTM, GRU or plain RNN."""

    consumes: ClassVar[tuple[str, ...]] = ("text", "sentences")
    generates: ClassVar[bool] = True

    cell: Cell = setting(Cell.lstm, "Kind of recurrence.")
    hidden_size: int = setting(256, "Width H of each layer, in each direction.", at_least=1)
    num_layers: int = setting(1, "Layers.", at_least=1)
    embedding_size: int | None = setting(None, "Width of the token embedding; default: hidden_size.", at_least=1)
    bidirectional: bool = setting(False, "Read in both directions; for classification only.")
    carry_state: bool = setting(
        True, "In language modelling, start each window of a text with the state in which the one before it ended."
    )
    tie_embeddings: bool = setting(
        False, "The output layer shares the token embedding's weight; a projection leads to it where widths differ."
    )
    dropout: float = setting(0.0, "Probability of dropping an output of a layer.", at_least=0, below=1)
    embedding_dropout: float = setting(
        0.0, "Probability of dropping a feature of an embedded token.", at_least=0, below=1
    )
    variational_dropout: bool = setting(
        False, "Drop the same features at every position of a window or text (arXiv:1512.05287)."
    )
    pooling: Pooling = setting(
        Pooling.last, "One vector for a text: of its last token (in each direction), or over all tokens."
    )
    recurrent_init: RecurrentInit = setting(
        RecurrentInit.orthogonal, "Orthogonal recurrent weights and a forget bias of 1; or as torch has it."
    )

    def gives(self) -> tuple[str, ...]:
        """In both directions, no vector of a position is free of the tokens after it."""
        return ("pooled",) if self.bidirectional else super().gives()

    def problems(self) -> list[Invalid]:
        found = []
        if self.bidirectional and self.tie_embeddings:
            sentence = "is true, which has no effect with bidirectional: it generates no text"
            found.append(Invalid("tie_embeddings", sentence))
        if self.variational_dropout and not (self.dropout or self.embedding_dropout):
            sentence = "is true, which has no effect without dropout or embedding_dropout"
            found.append(Invalid("variational_dropout", sentence))
        return found


@dataclass
class BertConfig(ModelConfig):
    """BERT (arXiv:1810.04805): a bidirectional encoder."""

    consumes: ClassVar[tuple[str, ...]] = ("text", "sentences")

    hidden_size: int = setting(128, "Width D of the residual stream.", at_least=1)
    num_layers: int = setting(4, "Blocks.", at_least=1)
    num_heads: int = setting(4, "Attention heads H.", at_least=1)
    feedforward_size: int | None = setting(
        None, "Hidden width of the feed-forward part; default: 4 * hidden_size.", at_least=1
    )
    max_length: int = setting(512, "Longest sequence, in tokens: positions that exist.", at_least=1)
    dropout: float = setting(0.1, "Probability of dropping an activation.", at_least=0, below=1)
    attention_dropout: float | None = setting(
        None, "Probability of dropping an attention weight; default: dropout.", at_least=0, below=1
    )
    stochastic_depth: float = setting(
        0.0, "Probability of skipping the last block for a sample (arXiv:1603.09382); less before.", at_least=0, below=1
    )
    norm_position: NormPosition = setting(
        NormPosition.post, "post: after each residual sum, as in the paper; pre: before each part (arXiv:2002.04745)."
    )
    norm_epsilon: float = setting(1e-12, "Added to the variance in norms.", above=0)
    init_std: float = setting(0.02, "Standard deviation of initial weights.", above=0)
    tie_embeddings: bool = setting(True, "The output layer shares the token embedding's weight.")
    num_embeddings: int | None = _embedding_rows()

    def gives(self) -> tuple[str, ...]:
        return ("bidirectional", "pooled")

    def problems(self) -> list[Invalid]:
        if self.hidden_size % self.num_heads:
            return [_uneven_heads(self.num_heads, self.hidden_size)]
        return []


@dataclass
class Seq2SeqConfig(ModelConfig):
    """Encoder-decoder transformer (arXiv:1706.03762)."""

    consumes: ClassVar[tuple[str, ...]] = ("pairs",)
    generates: ClassVar[bool] = True

    hidden_size: int = setting(128, "Width D of the residual stream.", at_least=1)
    num_layers: int = setting(2, "Blocks of the encoder, and as many of the decoder.", at_least=1)
    num_heads: int = setting(4, "Attention heads H.", at_least=1)
    feedforward_size: int | None = setting(
        None, "Hidden width of the feed-forward part; default: 4 D, or 8/3 D for swiglu.", at_least=1
    )
    max_length: int = setting(1024, "Longest source and longest target, in tokens: positions that exist.", at_least=1)
    positional: Positional = setting(Positional.sinusoidal, "How positions enter: sinusoidal or learned.")
    norm_position: NormPosition = setting(
        NormPosition.pre,
        "pre: before each part, which trains without a long warm-up (arXiv:2002.04745); "
        "post: after each residual sum, as in the paper.",
    )
    norm_epsilon: float = setting(1e-5, "Added to the variance in norms.", above=0)
    activation: Activation = setting(Activation.relu, "Feed-forward nonlinearity.")
    tie_embeddings: bool = setting(True, "Source, target and output layer share one embedding matrix.")
    dropout: float = setting(0.1, "Probability of dropping an activation, or an attention weight.", at_least=0, below=1)

    def gives(self) -> tuple[str, ...]:
        return ("decoder",)

    def problems(self) -> list[Invalid]:
        found = []
        if self.hidden_size % self.num_heads:
            found.append(_uneven_heads(self.num_heads, self.hidden_size))
        if self.positional is Positional.rope:
            found.append(Invalid("positional", "is rope, which this model does not have; allowed: sinusoidal, learned"))
        if self.positional is Positional.sinusoidal and self.hidden_size % 2:
            found.append(Invalid("hidden_size", f"is {self.hidden_size}; positional=sinusoidal needs an even width"))
        return found


@dataclass
class NgramConfig(ModelConfig):
    """n-grams by interpolated modified Kneser-Ney smoothing (Chen & Goodman 1999): counted before the first step.

    What is trained is the discounts, three of each order, on what the counts say of each token without that token.
    """

    consumes: ClassVar[tuple[str, ...]] = ("text",)
    generates: ClassVar[bool] = True
    counts: ClassVar[bool] = True

    order: int = setting(5, "n: the next token is predicted from the n - 1 before it.", at_least=1, at_most=64)
    max_tokens: int = setting(
        10_000_000,
        "Most tokens of the training split that are counted, the first ones; 10 million take 15 s and 3 GB.",
        at_least=1,
    )

    def gives(self) -> tuple[str, ...]:
        return ("causal",)


def _uneven_heads(num_heads: int, hidden_size: int) -> Invalid:
    """Says which numbers of heads and which widths would go together, with an even width per head, as rope needs it."""
    below = hidden_size - hidden_size % (2 * num_heads)
    widths = [str(width) for width in (below, below + 2 * num_heads) if width]
    heads = _divisors_near(num_heads, hidden_size // 2 if hidden_size % 2 == 0 else hidden_size)
    fix = f"use num_heads={heads}, or hidden_size={' or '.join(widths)}"
    return Invalid("num_heads", f"is {num_heads}, which does not divide hidden_size={hidden_size}; {fix}")


def _divisors_near(number: int, whole: int) -> str:
    """The next divisors of `whole` below and above a number that is none: "2 or 4"."""
    divisors = [candidate for candidate in range(1, whole + 1) if whole % candidate == 0]
    below, above = [d for d in divisors if d <= number][-1:], [d for d in divisors if d > number][:1]
    return " or ".join(map(str, below + above))


MODELS.register("transformer", TransformerConfig, factory="bigtrain.models.transformer:Transformer")
MODELS.register("lstm", LSTMConfig, factory="bigtrain.models.lstm:LSTM")
MODELS.register("bert", BertConfig, factory="bigtrain.models.bert:Bert")
MODELS.register("seq2seq", Seq2SeqConfig, factory="bigtrain.models.seq2seq:EncoderDecoder")
MODELS.register("ngram", NgramConfig, factory="bigtrain.models.ngram:Ngram")
