"""What an exported folder says of its tokens: transformers' pipelines take it as it is, long texts included."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bigtrain.data.tokenizers.bpe import train_bpe
from bigtrain.data.tokenizers.subword import SubwordTokenizer
from bigtrain.data.tokenizers.tokenizer import ByteTokenizer, CharTokenizer, characters_of, framing_ids
from bigtrain.data.tokenizers.tokenizer_file import read_tokenizer
from bigtrain.data.tokenizers.wordlevel import train_wordlevel
from bigtrain.data.tokenizers.wordpiece import train_wordpiece
from bigtrain.errors import DataError
from bigtrain.interop.hugging_face import folder_files
from bigtrain.models.config import Activation, BertConfig, Norm, Positional, TransformerConfig
from bigtrain.storage import durable
from bigtrain.tasks.config import ClassificationConfig, LanguageModelingConfig, MaskedLanguageModelingConfig
from bigtrain.tasks.generation import Sampling, generate
from tests.tiny_networks import SENTENCES, TEXT, tiny_network

transformers = pytest.importorskip("transformers")
transformers.logging.disable_progress_bar()

PROSE = "the cat sat on a mat; it isn't Ünïcode 日本.\n" * 20
LONG = "the cat sat on a mat; it isn't " * 100
TOKENIZERS = {
    "byte": ByteTokenizer(True),
    "char": CharTokenizer(characters_of([PROSE]), True, True),
    "char of one text": CharTokenizer(characters_of([PROSE])),
    "bpe": train_bpe([PROSE], 280, True),
    "bpe of one text": train_bpe([PROSE], 280, False),
    "wordpiece": train_wordpiece([PROSE], 280),
    "word": train_wordlevel([PROSE], 280, True),
}
GPT2 = TransformerConfig(
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    max_length=64,
    norm=Norm.layernorm,
    positional=Positional.learned,
    activation=Activation.gelu_tanh,
    qk_norm=False,
    tie_embeddings=True,
    bias=True,
)
BERT = BertConfig(hidden_size=16, num_layers=1, num_heads=2, max_length=64, dropout=0.0)


def exported(folder, config, task, spec, tokenizer, sequence_length=32):
    facts = {"vocab_size": tokenizer.vocab_size, "special_tokens": tokenizer.special_ids}
    spec = replace(spec, **facts, sequence_length=sequence_length)
    _, network = tiny_network(config, 0, task, spec)
    files, left_out = folder_files(network.eval(), config, spec, tokenizer)
    assert left_out == []
    for name, content in files.items():
        durable.write_new(folder / name, content)
    return network


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_tokenizer_gives_the_same_ids_there_and_when_it_comes_back(tmp_path, kind):
    tokenizer = TOKENIZERS[kind]
    exported(tmp_path, GPT2, LanguageModelingConfig(), TEXT, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    again = read_tokenizer(str(tmp_path / "tokenizer.json"), may_grow=False)
    for text in (PROSE, "the  cat\n\nsat", ""):
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids.tolist() == again.encode(text).tolist()
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == again.decode(ids) == tokenizer.decode(ids)
    special = tokenizer.special_ids
    assert (again.vocab_size, len(theirs)) == (tokenizer.vocab_size, tokenizer.vocab_size)
    assert again.special_ids == special
    assert (theirs.eos_token_id, theirs.unk_token_id) == (special.get("end_of_text"), special.get("unknown"))
    assert theirs.pad_token_id == special.get("padding", special.get("end_of_text"))
    assert theirs.bos_token_id == special.get("begin", special.get("end_of_text"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["pad_token_id"], config["eos_token_id"]) == (theirs.pad_token_id, theirs.eos_token_id)


def test_a_character_that_a_tokenizer_never_saw_is_named(tmp_path):
    exported(tmp_path, GPT2, LanguageModelingConfig(), TEXT, TOKENIZERS["char of one text"])
    with pytest.raises(DataError, match="no token for 'z'"):
        read_tokenizer(str(tmp_path / "tokenizer.json"), may_grow=False).encode("the zebra")


@pytest.mark.parametrize("kind", ["byte", "bpe", "wordpiece", "word"])
def test_a_classifier_reads_texts_longer_than_it_can(tmp_path, kind):
    tokenizer = TOKENIZERS[kind]
    spec = replace(SENTENCES, labels=("bad", "so", "good", "best"))
    network = exported(tmp_path, BERT, ClassificationConfig(), spec, tokenizer)
    classify = transformers.pipeline("text-classification", model=str(tmp_path))
    short, long = classify(["the cat sat", LONG], truncation=True, batch_size=2, top_k=None)
    begin, end = framing_ids(tokenizer)
    for text, found in (("the cat sat", short), (LONG, long)):
        ids = torch.from_numpy(np.array([begin, *tokenizer.encode(text)[:30], end]))[None]
        with torch.inference_mode():
            scores = network(ids).predictions["classification"].softmax(dim=-1)[0].tolist()
        assert {one["label"]: one["score"] for one in found} == pytest.approx(
            dict(zip(spec.labels, scores, strict=True)), abs=1e-5
        )


@pytest.mark.parametrize(("sequence_length", "read"), [(32, 32), (64, 48)])
@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "bpe of one text", "word"])
def test_a_generator_goes_on_from_the_end_of_texts_longer_than_it_can(tmp_path, kind, sequence_length, read):
    tokenizer = TOKENIZERS[kind]
    network = exported(tmp_path, GPT2, LanguageModelingConfig(), TEXT, tokenizer, sequence_length)
    continued = transformers.pipeline("text-generation", model=str(tmp_path))
    for text in ("the cat sat", LONG):
        (found,) = continued(text, truncation=True, max_new_tokens=5, do_sample=False, return_tensors=True)
        prompt = tokenizer.encode(text)[-read:]
        ours = generate(network, prompt[None], 5, Sampling(temperature=0), stop_id=tokenizer.end_of_text, max_length=64)
        assert found["generated_token_ids"] == [*prompt.tolist(), *ours[0].tolist()]


@pytest.mark.parametrize("kind", ["bpe of one text", "wordpiece"])
def test_a_mask_is_a_token_there(tmp_path, kind):
    tokenizer = TOKENIZERS[kind]
    exported(tmp_path, BERT, MaskedLanguageModelingConfig(), TEXT, tokenizer)
    fill = transformers.pipeline("fill-mask", model=str(tmp_path))
    assert fill.tokenizer.mask_token_id == tokenizer.special_ids.get("mask", tokenizer.vocab_size)
    assert len(fill(f"the cat {fill.tokenizer.mask_token} on", top_k=3)) == 3
    again = read_tokenizer(str(tmp_path / "tokenizer.json"), may_grow=False)
    assert isinstance(again, SubwordTokenizer) and again.special_ids["mask"] == fill.tokenizer.mask_token_id
