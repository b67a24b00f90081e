"""Folders with the wrong weights: each is a sentence that names what is wrong, and nothing is copied."""

import json

import pytest
import safetensors.torch
import torch
from tiny_networks import perturb, tiny_config, tiny_network

from bigtrain.errors import CheckpointError
from bigtrain.interop.hugging_face import folder_files, load_folder
from bigtrain.interop.pretrained import read_architecture
from bigtrain.models.config import Activation, LSTMConfig, Norm, Positional, TransformerConfig
from bigtrain.storage import durable

from .folders import SPEC

LLAMA = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "max_length": 32,
    "activation": Activation.swiglu,
    "qk_norm": False,
}


def llama_settings(**changes):
    return TransformerConfig(**LLAMA | changes)


@pytest.fixture
def folder(tmp_path):
    """A whole Llama's folder, written by us."""
    config = llama_settings()
    _, network = tiny_network(config, spec=SPEC)
    for name, content in folder_files(perturb(network), config, SPEC, None)[0].items():
        durable.write_new(tmp_path / name, content)
    return tmp_path


def load(folder, spec=SPEC, rows=None):
    config = llama_settings(**read_architecture(folder).settings | {"num_embeddings": rows})
    _, network = tiny_network(config, seed=1, spec=spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        return load_folder(network, folder, config)
    except CheckpointError:
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        raise


def change(folder, **changes):
    """Rewrites the weights: a tensor for each name, or None to leave it out; dots are written as double underscores."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


def test_the_whole_folder_loads(folder):
    assert load(folder) == [f"init_from: 15 of 15 tensors loaded from {folder}"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model__norm__weight": None}, "model.norm.weight is missing"),
        (
            {"model__layers__1__self_attn__k_proj__weight": torch.zeros(16, 16)},
            "model.layers.1.self_attn.k_proj.weight is F32 (16, 16), expected F64 or F32 or F16 or BF16 (8, 16)",
        ),
        ({"model__norm__weight": torch.zeros(16, dtype=torch.int8)}, "model.norm.weight is I8 (16,), expected"),
        ({"model__layers__0__self_attn__q_proj__bias": torch.zeros(16)}, "q_proj.bias is not expected"),
        ({"model__layers__2__input_layernorm__weight": torch.zeros(16)}, "input_layernorm.weight is not expected"),
        ({"model__embed_tokens__weight": torch.zeros(())}, "model.embed_tokens.weight is F32 ()"),
        ({"lm_head__weight": torch.zeros(9, 16)}, "lm_head.weight is F32 (9, 16)"),
    ],
)
def test_tensors_that_are_missing_misshapen_or_unknown_are_named(folder, changes, said):
    change(folder, **changes)
    with pytest.raises(CheckpointError) as raised:
        load(folder)
    assert said in str(raised.value)
    assert "1 of its tensors are wrong" in str(raised.value)


@pytest.mark.parametrize("tokens", [22, 24])
def test_another_vocabulary_is_told_apart_from_another_model(folder, tokens):
    change(folder, model__embed_tokens__weight=torch.zeros(tokens, 16), lm_head__weight=torch.zeros(tokens, 16))
    with pytest.raises(CheckpointError, match=f"has vectors for {tokens} tokens, but this data has 23 tokens"):
        load(folder)


def test_what_is_no_weight_and_what_is_no_head_of_ours_are_left(folder):
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(2), score__weight=torch.zeros(3, 16))
    assert load(folder)[1:] == ["init_from: not used: score.weight"]


@pytest.mark.parametrize("content", [b"", b"junk", bytes(5000), b"\xff" * 5000])
def test_a_file_that_is_no_safetensors_is_named(folder, content):
    (folder / "filler.safetensors").write_bytes(bytes(10_000))  # or the sizes alone would give it away
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read"):
        load(folder)


def test_a_file_cut_short_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors can't be read"):
        load(folder)


def in_parts(folder):
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        safetensors.torch.save_file({name: tensors[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_parts_load_and_a_missing_one_is_named(folder):
    in_parts(folder)
    assert len(load(folder)) == 1
    (folder / "b.safetensors").rename(folder / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"b\.safetensors is missing"):
        load(folder)


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], {"a": 3}, {"a": "../elsewhere.safetensors"}, {"a": "/etc/passwd"}, {"a": "weights.bin"}],
)
def test_an_index_that_leads_elsewhere_is_refused(folder, weight_map):
    in_parts(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="has no weight_map from names of tensors to files beside it"):
        load(folder)


def test_the_same_tensor_twice_is_refused(folder):
    in_parts(folder)
    safetensors.torch.save_file({"model.norm.weight": torch.zeros(16)}, folder / "d.safetensors")
    index = {"weight_map": {name: name for name in ("a.safetensors", "b.safetensors", "d.safetensors")}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is there twice"):
        load(folder)


def test_a_model_that_the_other_library_does_not_have_is_refused():
    config = llama_settings(norm=Norm.layernorm, positional=Positional.sinusoidal, qk_norm=True)
    _, network = tiny_network(config, spec=SPEC)
    with pytest.raises(CheckpointError) as raised:
        folder_files(network, config, SPEC, None)
    assert "model.positional is sinusoidal, where Llama has rope" in str(raised.value)
    assert "model.qk_norm is true, where Llama has false" in str(raised.value)
    config = tiny_config(LSTMConfig)
    with pytest.raises(CheckpointError, match="this lstm is none of the models"):
        folder_files(tiny_network(config, spec=SPEC)[1], config, SPEC, None)
