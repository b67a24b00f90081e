"""`init_from=<Hugging Face folder>`: the model's settings come from its config.json, strictly, before any torch."""

import json
import subprocess
import sys

import pytest

from bigtrain.models.config import Activation, Norm, NormPosition, Positional

from ..config.composing import composed, refusal

CONFIGS = {
    "gpt2": {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "llama": {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "bert": {
        "vocab_size": 50,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
    },
}


@pytest.fixture
def folder(tmp_path):
    """A folder of the given model type, changed; the weights are as large as theirs would be, and otherwise nothing."""

    def make(model, /, **changes):
        document = {"model_type": model} | CONFIGS[model] | changes
        text = json.dumps({key: value for key, value in document.items() if value != "absent"})
        (tmp_path / "config.json").write_text(text)
        (tmp_path / "model.safetensors").write_bytes(bytes(100_000))
        return f"init_from={tmp_path}"

    return make


def test_gpt2(folder):
    model = composed(folder("gpt2", layer_norm_epsilon=1e-4), "data.sequence_length=32").config.model
    assert (model.hidden_size, model.num_layers, model.num_heads, model.max_length) == (16, 2, 2, 40)
    assert (model.norm, model.positional) == (Norm.layernorm, Positional.learned)
    assert model.activation is Activation.gelu_tanh
    assert (model.bias, model.qk_norm, model.tie_embeddings, model.norm_epsilon) == (True, False, True, 1e-4)
    assert (model.feedforward_size, model.num_kv_heads) == (64, None)


def test_llama_old_and_new(folder):
    for theta in ({"rope_theta": 5e5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}):
        model = composed(folder("llama", **theta, head_dim=4, rope_scaling=None), "model=llama").config.model
        assert (model.num_heads, model.num_kv_heads, model.feedforward_size) == (4, 2, 24)
        assert (model.norm, model.positional, model.activation) == (Norm.rmsnorm, Positional.rope, Activation.swiglu)
        assert (model.rope_base, model.norm_epsilon, model.max_length) == (5e5, 1e-6, 2048)
        assert (model.bias, model.qk_norm, model.tie_embeddings) == (False, False, False)
    assert composed(folder("llama", num_key_value_heads="absent")).config.model.num_kv_heads == 4


def test_bert(folder):
    words = ("model=bert_base", "data=python_docs_topics", "task=classification", "data.sequence_length=40")
    model = composed(folder("bert", layer_norm_eps=1e-6), *words).config.model
    assert (model.hidden_size, model.num_layers, model.feedforward_size, model.max_length) == (16, 2, 24, 40)
    assert (model.norm_position, model.norm_epsilon) == (NormPosition.post, 1e-6)


def test_what_the_folder_does_not_say_is_the_users(folder):
    words = (folder("gpt2"), "model.dropout=0.3", "model.init_std=0.5", "model.hidden_size=16", "model.num_layers=2")
    result = composed(*words, "data.sequence_length=32")
    assert (result.config.model.dropout, result.config.model.init_std) == (0.3, 0.5)
    assert result.document["model"]["hidden_size"] == 16
    assert result.document["model"]["norm"] == "layernorm"


def test_what_was_typed_against_the_folder_is_refused_all_at_once(folder):
    text = refusal(folder("gpt2"), "model.hidden_size=64", "model.norm=rmsnorm")
    assert "model.hidden_size is 64, but the weights of init_from have 16" in text
    assert "model.norm is rmsnorm, but the weights of init_from have layernorm" in text
    assert 'command line, "model.hidden_size=64"' in text


def test_conflicts_are_looked_for_with_the_folders_settings(folder):
    text = refusal(folder("gpt2"))
    assert "data.sequence_length is 128, but model.max_length is 40" in text
    assert "data.sequence_length=40" in text and "model.max_length=" not in text  # which the folder would refuse


def test_rows_of_embeddings_come_with_the_tokens_or_are_asked_for(folder, tmp_path):
    words = (folder("gpt2"), "data.sequence_length=32")
    assert composed(*words).config.model.num_embeddings is None  # are these tokens the data's? Nobody knows
    assert composed(*words, "model.num_embeddings=50").config.model.num_embeddings == 50
    (tmp_path / "tokenizer.json").touch()
    assert composed(*words).config.model.num_embeddings == 50
    assert composed(*words, "model.num_embeddings=64").document["model"]["num_embeddings"] == 64
    text = refusal(*words, "model.num_embeddings=49")
    assert "model.num_embeddings is 49, but the weights of init_from have 50" in text
    words = (folder("gpt2", vocab_size="absent"), "data.sequence_length=32")
    assert composed(*words).config.model.num_embeddings is None
    assert "vocab_size is 0; it must be a whole number" in refusal(folder("gpt2", vocab_size=0))


@pytest.mark.parametrize(
    ("model_type", "choice", "fits"),
    [
        ("bert", "transformer", "model=bert"),
        ("gpt2", "bert", "model=gpt2 or model=transformer"),
        ("gpt2", "llama", "model=gpt2 or model=transformer"),
        ("llama", "gpt2", "model=llama or model=transformer"),
    ],
)
def test_another_kind_of_model_is_refused_with_those_that_fit(folder, model_type, choice, fits):
    words = ("data=python_docs", "task=masked_lm") if choice == "bert" else ()
    text = refusal(folder(model_type), f"model={choice}", *words)
    assert text.startswith("error[PRETRAINED-MODEL]: init_from holds a ")
    assert f"which model={choice} is not" in text
    assert f"choose {fits}" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "t5"}, 'model_type "t5", which bigtrain does not read'),
        ({"model_type": "absent"}, "model_type null"),
        ({"model_type": ["gpt2"]}, "model_type a list"),
        ({"n_embd": "absent"}, "n_embd is missing"),
        ({"n_embd": "16"}, 'n_embd is "16"; it must be a whole number'),
        ({"n_embd": 16.0}, "n_embd is 16.0; it must be a whole number"),
        ({"n_embd": True}, "n_embd is true; it must be a whole number"),
        ({"n_layer": 0}, "n_layer is 0; it must be a whole number from 1"),
        ({"n_layer": 10**9}, "it must be a whole number from 1 to 1,048,576"),
        ({"n_layer": 10**5}, "the .safetensors files there have 100,000 bytes"),
        ({"vocab_size": 10**4}, "the .safetensors files there have 100,000 bytes"),
        ({"n_head": 3}, "num_heads is 3, which does not divide hidden_size=16"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon is NaN; it must be a number above 0"),
        ({"layer_norm_epsilon": 10**400}, "it must be a number above 0"),
        ({"activation_function": "relu"}, "it must be gelu_new or gelu_pytorch_tanh or gelu"),
        ({"activation_function": {"a": 1}}, "activation_function is an object"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is true; it must be false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it must be true or false"),
        ({"quantization_config": {}}, "its weights are quantised"),
    ],
)
def test_a_config_that_can_not_be_taken_is_a_sentence(folder, changes, said):
    assert said in refusal(folder("gpt2", **changes), "data.sequence_length=32")


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": ["default"]}},
        {"rope_scaling": "linear"},
    ],
)
def test_scaled_positions_are_refused(folder, changes):
    assert "scales the positions, which bigtrain does not" in refusal(folder("llama", **changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"attention_bias": True}, "attention_bias is true"), ({"head_dim": 8}, "head_dim is 8; it must be 16 / 4")],
)
def test_what_our_llama_does_not_have_is_refused(folder, changes, said):
    assert said in refusal(folder("llama", **changes))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"not JSON", "config.json can't be used"),
        (b"[1, 2]", "it is not a JSON object"),
        (b"[" * 100_000, "config.json can't be used"),
        (b" " * (1 << 20) + b"{}", "it is over 1,048,576 bytes"),
        (b"\xff\xfe\x00", "config.json can't be used"),
    ],
)
def test_a_file_that_is_no_config_is_a_sentence(folder, tmp_path, content, said):
    word = folder("gpt2")
    (tmp_path / "config.json").write_bytes(content)
    assert said in refusal(word)


def test_a_folder_with_pickles_alone_is_refused(folder, tmp_path):
    word = folder("gpt2")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    text = refusal(word, "data.sequence_length=32")
    assert "pytorch_model.bin, a pickle, which can run code" in text
    assert "its model.save_pretrained(folder) writes a model.safetensors" in text
    (tmp_path / "config.json").unlink()
    assert "there is no file config.json" in refusal(word)


def test_reading_a_config_needs_no_torch(folder):
    program = (
        "import sys; from bigtrain.config.compose import *; from bigtrain.config.library import Request\n"
        "composed = validate(compose(Request('train', tuple(sys.argv[1:]))))\n"
        "print(composed.config.model.hidden_size, 'torch' in sys.modules)"
    )
    words = (folder("gpt2"), "data.sequence_length=32")
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stdout == "16 False\n"
