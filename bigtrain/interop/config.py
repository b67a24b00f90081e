"""The architectures of Hugging Face's that are cases of models of ours, setting by setting; torch-free.

Reading a config.json: `interop/pretrained.py`; the names of the weights: `interop/weights.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from bigtrain.errors import CheckpointError
from bigtrain.models.config import Activation, Norm, NormPosition, Positional
from bigtrain.registry import WEIGHT_FORMATS

REQUIRED: Any = object()
"""The default of a key that their file must have."""


@dataclass(frozen=True)
class Key:
    """A setting that both sides have: its name here and there, its type, and its value where their file is silent.

    The type of a choice is a table, their name → our value; of two names for one value the first is written.
    """

    ours: str
    theirs: str
    kind: type | dict[str, Any] = int
    default: Any = REQUIRED


@dataclass(frozen=True)
class Family:
    """An architecture of Hugging Face's, as a case of one of our models.

    `fixed` are settings of ours that it has no other values of, `demanded` those of theirs that we have no other values
    of; `dropouts`, their name → ours, are written but not read: they are the training's. `heads`: a head of ours →
    the class of theirs that has it; the entry "" is the bare backbone. `prefix` begins the names of its weights,
    `optional` those of a part that some of them lack; names that end like one of `buffers` are no weights.
    """

    title: str
    model_type: str
    part: str
    prefix: str
    heads: dict[str, str]
    fixed: dict[str, Any]
    keys: tuple[Key, ...]
    dropouts: dict[str, str]
    demanded: dict[str, Any] = field(default_factory=dict)
    optional: str = ""
    buffers: tuple[str, ...] = ()


GPT2 = Family(
    title="GPT-2",
    model_type="gpt2",
    part="transformer",
    prefix="transformer.",
    heads={"": "GPT2Model", "language_model": "GPT2LMHeadModel"},
    fixed={
        "norm": Norm.layernorm,
        "positional": Positional.learned,
        "qk_norm": False,
        "bias": True,
        "logit_softcap": None,
        "num_kv_heads": None,
    },
    keys=(
        Key("hidden_size", "n_embd"),
        Key("num_embeddings", "vocab_size", default=None),
        Key("num_layers", "n_layer"),
        Key("num_heads", "n_head"),
        Key("feedforward_size", "n_inner", default=None),
        Key("max_length", "n_positions"),
        Key(
            "activation",
            "activation_function",
            {
                "gelu_new": Activation.gelu_tanh,
                "gelu_pytorch_tanh": Activation.gelu_tanh,
                "gelu": Activation.gelu,
            },
            "gelu_new",
        ),
        Key("norm_epsilon", "layer_norm_epsilon", float, 1e-5),
        Key("tie_embeddings", "tie_word_embeddings", bool, True),
    ),
    dropouts={"resid_pdrop": "dropout", "embd_pdrop": "dropout", "attn_pdrop": "dropout"},
    demanded={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    buffers=(".attn.bias", ".attn.masked_bias"),
)

LLAMA = Family(
    title="Llama",
    model_type="llama",
    part="transformer",
    prefix="model.",
    heads={"": "LlamaModel", "language_model": "LlamaForCausalLM"},
    fixed={
        "norm": Norm.rmsnorm,
        "positional": Positional.rope,
        "qk_norm": False,
        "bias": False,
        "logit_softcap": None,
    },
    keys=(
        Key("hidden_size", "hidden_size"),
        Key("num_embeddings", "vocab_size", default=None),
        Key("num_layers", "num_hidden_layers"),
        Key("num_heads", "num_attention_heads"),
        Key("num_kv_heads", "num_key_value_heads", default=None),
        Key("feedforward_size", "intermediate_size"),
        Key("max_length", "max_position_embeddings", default=2048),
        Key("activation", "hidden_act", {"silu": Activation.swiglu}, "silu"),
        Key("norm_epsilon", "rms_norm_eps", float, 1e-6),
        Key("rope_base", "rope_theta", float, 10000.0),
        Key("tie_embeddings", "tie_word_embeddings", bool, False),
    ),
    dropouts={"attention_dropout": "dropout"},
    demanded={"attention_bias": False, "mlp_bias": False},
    buffers=(".rotary_emb.inv_freq",),
)

BERT = Family(
    title="BERT",
    model_type="bert",
    part="bert",
    prefix="bert.",
    heads={
        "": "BertModel",
        "classification": "BertForSequenceClassification",
        "masked_language_model": "BertForMaskedLM",
        "next_sentence": "BertForPreTraining",
    },
    fixed={"norm_position": NormPosition.post},
    keys=(
        Key("hidden_size", "hidden_size"),
        Key("num_embeddings", "vocab_size", default=None),
        Key("num_layers", "num_hidden_layers"),
        Key("num_heads", "num_attention_heads"),
        Key("feedforward_size", "intermediate_size"),
        Key("max_length", "max_position_embeddings"),
        Key("norm_epsilon", "layer_norm_eps", float, 1e-12),
        Key("tie_embeddings", "tie_word_embeddings", bool, True),
    ),
    dropouts={"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"},
    demanded={
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "is_decoder": False,
        "add_cross_attention": False,
    },
    optional="bert.pooler.",
    buffers=(".position_ids",),
)

WEIGHT_FORMATS["hugging_face"] = "bigtrain.interop.pretrained"
FAMILIES = {family.model_type: family for family in (GPT2, LLAMA, BERT)}


def family_of(settings: dict[str, Any], part: str) -> Family:
    """The family that a model with these settings is a case of.

    Raises CheckpointError for a model that is none, with the settings that the nearest one has otherwise.
    """
    differences = {
        name: list(_differences(family, settings)) for name, family in FAMILIES.items() if family.part == part
    }
    nearest = min(differences, key=lambda name: len(differences[name]), default="")
    if not nearest or differences[nearest]:
        raise CheckpointError.of(
            "EXPORT-MODEL",
            f"this {part} is none of the models that Hugging Face's library has",
            cause="; ".join(differences[nearest]) if nearest else "",
            fix=f"train with {' or '.join(f'model={name}' for name in FAMILIES)}, and these settings as they are there",
        )
    return FAMILIES[nearest]


def to_document(family: Family, settings: dict[str, Any], heads: set[str]) -> dict[str, Any]:
    """Their config.json for a model of ours with these settings and heads; what depends on the tokens is not in it."""
    return {
        "model_type": family.model_type,
        "architectures": [name for head, name in family.heads.items() if not head or head in heads][-1:],
        **{key.theirs: _their_value(key, settings[key.ours]) for key in family.keys},
        **{theirs: settings["dropout" if settings[ours] is None else ours] for theirs, ours in family.dropouts.items()},
        **family.demanded,
    }


def shown(value: Any) -> str:
    """A value in an error message: short, and never walked into."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    text = value.value if isinstance(value, Enum) else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _differences(family: Family, settings: dict[str, Any]) -> Iterator[str]:
    """Settings that this family does not have."""
    for name, value in family.fixed.items():
        if settings[name] != value:
            yield f"model.{name} is {shown(settings[name])}, where {family.title} has {shown(value)}"
    for key in family.keys:
        if isinstance(key.kind, dict) and settings[key.ours] not in key.kind.values():
            allowed = " or ".join(dict.fromkeys(map(shown, key.kind.values())))
            yield f"model.{key.ours} is {shown(settings[key.ours])}, where {family.title} has {allowed}"


def _their_value(key: Key, value: Any) -> Any:
    if not isinstance(key.kind, dict):
        return value
    return next(name for name, ours in key.kind.items() if ours == value)
