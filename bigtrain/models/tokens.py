"""Checks of the data that backbones for tokens share."""

from __future__ import annotations

from bigtrain.data.base import DataSpec
from bigtrain.errors import ConfigError


def require_tokens(model: str, data_spec: DataSpec, max_length: int | None = None) -> int:
    """The vocabulary's size. Raises ConfigError where the data has no tokens, or sequences over `max_length`."""
    if data_spec.vocab_size is None:
        raise ConfigError.of(
            "MODEL-DATA",
            f"model={model} reads tokens, but this data gives {data_spec.kind}",
            fix="choose data that gives text, for instance data=python_docs, or another model",
        )
    if max_length is not None and (data_spec.sequence_length or 0) > max_length:
        raise ConfigError.of(
            "MODEL-LENGTH",
            f"data.sequence_length is {data_spec.sequence_length}, over model.max_length={max_length}",
            fix=f"set data.sequence_length={max_length} or less, or raise model.max_length",
        )
    return data_spec.vocab_size


def embedding_rows(num_embeddings: int | None, tokens: int) -> int:
    """`model.num_embeddings`, or else one row per token. Raises ConfigError for fewer rows than tokens."""
    if num_embeddings is not None and num_embeddings < tokens:
        raise ConfigError.of(
            "MODEL-VOCABULARY",
            f"the data has {tokens:,} tokens, but the model has embeddings for {num_embeddings:,} only",
            cause=f"model.num_embeddings is {num_embeddings}",
            fix=f"model.num_embeddings={tokens} adds rows; those that init_from does not bring start fresh",
        )
    return num_embeddings or tokens
