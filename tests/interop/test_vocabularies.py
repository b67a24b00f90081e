"""Folders with another number of embeddings than tokens: padding is kept, missing rows are added where asked for."""

from dataclasses import replace

import pytest
import torch

from bigtrain.errors import CheckpointError, ConfigError
from bigtrain.interop.hugging_face import folder_files, load_folder
from bigtrain.interop.pretrained import read_architecture
from bigtrain.registry import MODELS
from bigtrain.storage import durable
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig, MaskedLanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate
from tests.tiny_networks import tiny_network

from .folders import SENTENCES_SPEC, SPEC, VOCAB_SIZE, bert_config, float64, gpt2_model, llama_model, save

transformers = pytest.importorskip("transformers")

MLM_SPEC = replace(SPEC, special_tokens={"end_of_text": 21, "begin": 20, "separator": 21, "mask": 22})
FAMILIES = {
    "gpt2": (gpt2_model, LanguageModelingConfig, SPEC),
    "gpt2-untied": (lambda **changes: gpt2_model(tie_word_embeddings=False, **changes), LanguageModelingConfig, SPEC),
    "llama": (llama_model, LanguageModelingConfig, SPEC),
    "bert": (
        lambda **changes: transformers.BertForMaskedLM(bert_config(**changes)),
        MaskedLanguageModelingConfig,
        MLM_SPEC,
    ),
}
EVERY = pytest.mark.parametrize("family", FAMILIES)


def loaded(folder, task_config, spec, num_embeddings):
    architecture = read_architecture(folder)
    settings = architecture.settings | {"num_embeddings": num_embeddings}
    config = MODELS[architecture.family.part].config_class(**settings)
    with float64():
        _, network = tiny_network(config, 0, task_config, spec)
    return config, network.eval(), load_folder(network, folder, config)


def vocabulary_tensors(network):
    names = ("token_embedding.weight", "heads.language_model.weight", "heads.masked_language_model.bias")
    return [value for name, value in network.state_dict().items() if name.endswith(names)]


def logits_of(network, tokens):
    predictions = network(tokens).predictions
    if "language_model" in predictions:
        return predictions["language_model"].logits()
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return predictions["masked_language_model"].at(positions).logits()


@EVERY
def test_padding_rows_come_in_count_and_go_out(family, tmp_path):
    make, task, spec = FAMILIES[family]
    rows = VOCAB_SIZE + 9
    theirs = save(make(vocab_size=rows), tmp_path / "first")
    config, network, notes = loaded(tmp_path / "first", task(), spec, rows)
    tokens = torch.randint(VOCAB_SIZE, (2, 11))
    torch.testing.assert_close(logits_of(network, tokens), theirs(tokens).logits, rtol=1e-10, atol=1e-10)
    assert logits_of(network, tokens).shape[-1] == rows and len(notes) == (1 if family != "bert" else len(notes))
    files, _ = folder_files(network, config, spec, None)
    (tmp_path / "second").mkdir()
    for name, content in files.items():
        durable.write_new(tmp_path / "second" / name, content)
    again = type(theirs).from_pretrained(tmp_path / "second", local_files_only=True, dtype=torch.float64).eval()
    assert again.config.vocab_size == rows
    assert all(value.equal(theirs.state_dict()[name]) for name, value in again.state_dict().items())


def test_a_padding_row_is_never_generated(tmp_path):
    model = gpt2_model(vocab_size=VOCAB_SIZE + 9, tie_word_embeddings=False)
    save(model, tmp_path)
    with torch.no_grad():
        model.lm_head.weight[VOCAB_SIZE:] *= 1000  # one of them would be the argmax nearly always
    model.save_pretrained(tmp_path)
    _, network, _ = loaded(tmp_path, LanguageModelingConfig(), SPEC, VOCAB_SIZE + 9)
    prompt = torch.randint(VOCAB_SIZE, (8, 3))
    assert (logits_of(network, prompt).argmax(dim=-1) >= VOCAB_SIZE).float().mean() > 0.5
    for sampling in (Sampling(temperature=0), Sampling(temperature=5.0), Sampling(top_k=3)):
        assert generate(network, prompt, 12, sampling, max_length=16).max() < VOCAB_SIZE


@EVERY
def test_rows_that_are_asked_for_start_at_the_mean(family, tmp_path):
    make, task, spec = FAMILIES[family]
    save(make(vocab_size=VOCAB_SIZE - 4), tmp_path)
    _, network, notes = loaded(tmp_path, task(), spec, VOCAB_SIZE)
    for value in vocabulary_tensors(network):
        assert len(value) == VOCAB_SIZE
        torch.testing.assert_close(value[-4:], value[:-4].mean(dim=0).expand_as(value[-4:]))
    assert (
        notes[-1]
        == f"init_from: embeddings {VOCAB_SIZE - 4} to {VOCAB_SIZE - 1} are new, and start at the mean of the others"
    )


@EVERY
def test_tokens_without_a_row_are_refused_by_the_word_that_adds_it(family, tmp_path):
    make, task, spec = FAMILIES[family]
    save(make(vocab_size=VOCAB_SIZE - 1), tmp_path)
    with pytest.raises(
        ConfigError, match=rf"(?s)has 23 tokens, but .* for 22 only.*model.num_embeddings={VOCAB_SIZE} adds"
    ):
        loaded(tmp_path, task(), spec, VOCAB_SIZE - 1)


def test_a_mask_that_is_no_token_needs_a_row_only_where_tokens_are_masked(tmp_path):
    without = {"end_of_text": 21, "begin": 20, "separator": 21}
    save(transformers.BertForMaskedLM(bert_config()), tmp_path)
    sentences = replace(SENTENCES_SPEC, special_tokens=without)
    loaded(tmp_path, ClassificationConfig(), sentences, VOCAB_SIZE)
    task, spec = MaskedLanguageModelingConfig(), replace(SPEC, special_tokens=without)
    with pytest.raises(ConfigError, match=f"model.num_embeddings={VOCAB_SIZE + 1} adds one"):
        loaded(tmp_path, task, spec, VOCAB_SIZE)
    loaded(tmp_path, task, spec, VOCAB_SIZE + 1)


def refusal(folder, num_embeddings, spec=SPEC, tokenizer_path=None):
    settings = read_architecture(folder).settings | {"num_embeddings": num_embeddings}
    config = MODELS["transformer"].config_class(**settings)
    _, network = tiny_network(config, 0, LanguageModelingConfig(), spec)
    with pytest.raises(CheckpointError) as raised:
        load_folder(network, folder, config, tokenizer_path)
    return str(raised.value)


def test_advice_is_what_was_not_done_yet(tmp_path):
    save(gpt2_model(vocab_size=VOCAB_SIZE + 9), tmp_path)
    text = refusal(tmp_path, None)
    assert "has vectors for 32 tokens, but this data has 23 tokens" in text
    assert "has neither tokenizer.json nor vocab.txt" in text and "get the tokenizer.json" in text
    text = refusal(tmp_path, None, tokenizer_path="own.json")
    assert "if own.json has the tokens of this model, model.num_embeddings=32" in text
    text = refusal(tmp_path, VOCAB_SIZE + 1)
    assert "but model.num_embeddings is 24" in text and "fix:   model.num_embeddings=32" in text
    (tmp_path / "tokenizer.model").touch()
    assert "tokenizer.model, which bigtrain does not read" in refusal(tmp_path, None)
    assert "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)" in refusal(tmp_path, None)


def test_a_config_that_says_more_rows_than_the_weights_have_is_refused(tmp_path):
    save(gpt2_model(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(f'"vocab_size": {VOCAB_SIZE}', '"vocab_size": 30'))
    text = refusal(tmp_path, 30)
    assert "its config.json says 30" in text and "get the whole folder again" in text
