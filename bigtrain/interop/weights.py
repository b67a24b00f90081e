"""Hugging Face's names for the weights of a network of ours: name → a view into our tensors.

Copying a file's tensors into these views loads it, and storing them writes it, so the two directions can't disagree.
Where theirs lies transposed, or is a part of ours, so is the view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from bigtrain.config.kinds import ModelConfig
from bigtrain.interop.config import BERT, GPT2, LLAMA, Family
from bigtrain.models.config import BertConfig, TransformerConfig

Views = dict[str, Tensor]


def views(family: Family, tensors: Mapping[str, Tensor], config: ModelConfig) -> Views:
    """Their name → a view, for all that they have of `tensors` (our name → tensor, of a whole network)."""
    return _VIEWS[family.model_type](tensors, config)


def _gpt2(tensors: Mapping[str, Tensor], config: ModelConfig) -> Views:
    assert isinstance(config, TransformerConfig)
    outside = {"wte": "token_embedding", "wpe": "positions.embedding", "ln_f": "norm"}
    inside = {
        "ln_1": "attention_norm",
        "attn.c_attn": "attention.qkv",
        "attn.c_proj": "attention.projection",
        "ln_2": "feedforward_norm",
        "mlp.c_fc": "feedforward.expansion",
        "mlp.c_proj": "feedforward.projection",
    }
    found = _renamed(tensors, outside, "transformer", "backbone")
    for number in range(config.num_layers):
        block = _renamed(tensors, inside, f"transformer.h.{number}", f"backbone.blocks.{number}")
        # A matrix lies (in, out) there and (out, in) here; of a vector, t() is the vector.
        found |= {name: view.t() for name, view in block.items()}
    return found | _renamed(tensors, {"lm_head": "heads.language_model"})


def _llama(tensors: Mapping[str, Tensor], config: ModelConfig) -> Views:
    assert isinstance(config, TransformerConfig)
    inside = {
        "input_layernorm": "attention_norm",
        "self_attn.o_proj": "attention.projection",
        "post_attention_layernorm": "feedforward_norm",
        "mlp.down_proj": "feedforward.projection",
    }
    queries = config.hidden_size
    keys = queries // config.num_heads * (config.num_kv_heads or config.num_heads)
    found = _renamed(tensors, {"embed_tokens": "token_embedding", "norm": "norm"}, "model", "backbone")
    for number in range(config.num_layers):
        theirs, ours = f"model.layers.{number}", f"backbone.blocks.{number}"
        found |= _renamed(tensors, inside, theirs, ours)
        parts = tensors[f"{ours}.attention.qkv.weight"].split((queries, keys, keys))
        found |= {f"{theirs}.self_attn.{name}_proj.weight": part for name, part in zip("qkv", parts, strict=True)}
        gate, value = tensors[f"{ours}.feedforward.expansion.weight"].chunk(2)
        found |= {f"{theirs}.mlp.gate_proj.weight": gate, f"{theirs}.mlp.up_proj.weight": value}
    return found | _renamed(tensors, {"lm_head": "heads.language_model"})


def _bert(tensors: Mapping[str, Tensor], config: ModelConfig) -> Views:
    assert isinstance(config, BertConfig)
    outside = {
        "embeddings.word_embeddings": "token_embedding",
        "embeddings.position_embeddings": "positions.embedding",
        "embeddings.token_type_embeddings": "segment_embedding",
        "embeddings.LayerNorm": "embedding_norm",
        "pooler.dense": "pooler",
    }
    inside = {
        "attention.output.dense": "attention.projection",
        "attention.output.LayerNorm": "attention_norm",
        "intermediate.dense": "feedforward.expansion",
        "output.dense": "feedforward.projection",
        "output.LayerNorm": "feedforward_norm",
    }
    found = _renamed(tensors, outside, "bert", "backbone")
    for number in range(config.num_layers):
        theirs, ours = f"bert.encoder.layer.{number}", f"backbone.blocks.{number}"
        found |= _renamed(tensors, inside, theirs, ours)
        for kind in ("weight", "bias"):
            parts = tensors[f"{ours}.attention.qkv.{kind}"].chunk(3)
            names = (f"{theirs}.attention.self.{name}.{kind}" for name in ("query", "key", "value"))
            found |= dict(zip(names, parts, strict=True))
    heads = {
        "classifier": "classification.linear",
        "cls.predictions": "masked_language_model",
        "cls.predictions.transform.dense": "masked_language_model.transform",
        "cls.predictions.transform.LayerNorm": "masked_language_model.norm",
        "cls.seq_relationship": "next_sentence.linear",
    }
    found |= _renamed(tensors, heads, ours="heads")
    if "cls.predictions.weight" in found:  # untied: the decoder has its own, and its bias is the one that counts
        found["cls.predictions.decoder.weight"] = found.pop("cls.predictions.weight")
        found["cls.predictions.decoder.bias"] = found["cls.predictions.bias"]
    return found


def _renamed(tensors: Mapping[str, Tensor], modules: Mapping[str, str], theirs: str = "", ours: str = "") -> Views:
    """Weight and bias, as far as there are any, of modules, their name → ours, that lie in those two."""
    theirs, ours = (f"{name}." if name else "" for name in (theirs, ours))
    return {
        f"{theirs}{one}.{kind}": tensors[f"{ours}{other}.{kind}"]
        for one, other in modules.items()
        for kind in ("weight", "bias")
        if f"{ours}{other}.{kind}" in tensors
    }


_VIEWS: dict[str, Callable[[Mapping[str, Tensor], ModelConfig], Views]] = {
    GPT2.model_type: _gpt2,
    LLAMA.model_type: _llama,
    BERT.model_type: _bert,
}
