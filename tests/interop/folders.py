"""Hugging Face folders of small random models, and networks of ours that start from them."""

import contextlib
from dataclasses import replace

import torch
from tiny_networks import SENTENCES, TEXT, perturb, tiny_network

from bigtrain.interop.hugging_face import load_folder
from bigtrain.interop.pretrained import read_architecture
from bigtrain.registry import MODELS
from bigtrain.tasks.config import LanguageModelingConfig

VOCAB_SIZE = 23
SPEC = replace(TEXT, vocab_size=VOCAB_SIZE, special_tokens={"end_of_text": 22})
SENTENCES_SPEC = replace(SENTENCES, vocab_size=VOCAB_SIZE, special_tokens={"begin": 20, "separator": 21, "mask": 22})


@contextlib.contextmanager
def float64():
    """Inside, new tensors are float64, tables of positions too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def save(model, folder):
    """A folder of a transformers model, every weight away from where it started; returns the model, for inference."""
    perturb(model.double().eval(), scale=0.2)
    model.save_pretrained(folder)
    return model


def gpt2_model(**changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    settings = {"vocab_size": VOCAB_SIZE, "n_positions": 16, "n_embd": 12, "n_layer": 3, "n_head": 3}
    return GPT2LMHeadModel(GPT2Config(**settings | NO_TOKENS | changes))


def llama_model(**changes):
    """In float64 all through: transformers rounds norms and angles to float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }
    return unrounded(LlamaForCausalLM(LlamaConfig(**settings | NO_TOKENS | changes)))


def bert_config(**changes):
    from transformers import BertConfig

    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 16,
    }
    return BertConfig(**settings | changes)


NO_TOKENS = {"bos_token_id": None, "eos_token_id": None}


class ExactRotary(torch.nn.Module):
    """What LlamaRotaryEmbedding computes, in the dtype of its input."""

    def __init__(self, head_size, base):
        super().__init__()
        self.exponents, self.base = torch.arange(0, head_size, 2, dtype=torch.float64) / head_size, base

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() / self.base**self.exponents
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def unrounded(model):
    """A Llama of transformers whose norms and angles keep the dtype of the weights."""
    config = model.config
    head_size = config.hidden_size // config.num_attention_heads
    model.model.rotary_emb = ExactRotary(head_size, config.rope_parameters["rope_theta"])

    def norm_of(old):
        norm = torch.nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps, dtype=old.weight.dtype)
        norm.weight = old.weight
        return norm

    for layer in model.model.layers:
        layer.input_layernorm = norm_of(layer.input_layernorm)
        layer.post_attention_layernorm = norm_of(layer.post_attention_layernorm)
    model.model.norm = norm_of(model.model.norm)
    return model


def loaded(folder, task_config=None, spec=SPEC):
    """(settings, network, sentences): built from the folder's settings, in float64, its weights loaded."""
    architecture = read_architecture(folder)
    config = MODELS[architecture.family.part].config_class(**architecture.settings)
    with float64():
        _, network = tiny_network(config, 0, task_config or LanguageModelingConfig(), spec)
    return config, network.eval(), load_folder(network, folder, config)
