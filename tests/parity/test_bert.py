"""`model=bert` is BERT: the same numbers as `transformers` with the same weights, and the published sizes and start."""

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import configs
from bigtrain.data.base import DataSpec
from bigtrain.models.bert import Bert
from bigtrain.models.config import BertConfig, NormPosition
from bigtrain.models.network import Network, tie_weights
from bigtrain.nn.init import draw_weights
from bigtrain.tasks.config import MaskedLanguageModelingConfig
from bigtrain.tasks.masked_lm import MaskedLanguageModeling

VOCAB_SIZE, WIDTH, LAYERS, HEADS, LENGTH = 31, 24, 3, 4, 16


def bert_config(preset="bert", **changes):
    """A shipped YAML's own values on top of the dataclass, as Hydra merges them."""
    values = OmegaConf.load(f"{configs.__path__[0]}/model/{preset}.yaml").get("model", {})
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(BertConfig), values, changes))


def build(config, vocab_size=VOCAB_SIZE):
    special = {"padding": 0, "unknown": 1, "begin": 2, "separator": 3, "end_of_text": 3, "mask": 4}
    spec = DataSpec("text", "", {}, vocab_size=vocab_size, sequence_length=LENGTH, special_tokens=special)
    task = MaskedLanguageModeling(MaskedLanguageModelingConfig(next_sentence=True), spec)
    backbone = Bert(config, spec)
    network = Network(backbone, task.build_heads(backbone.hidden_size, config))
    tie_weights(network, config)
    if torch.get_default_device().type != "meta":
        draw_weights(network, seed=0)
    return task, network


def reference(network):
    """`BertForPreTraining` of `transformers` with the weights of ours."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            max_position_embeddings=LENGTH,
            attn_implementation="eager",
        )
    ).double()
    ours = network.state_dict()
    q, k, v = "query", "key", "value"
    names = {
        "backbone.token_embedding": "bert.embeddings.word_embeddings",
        "backbone.positions.embedding": "bert.embeddings.position_embeddings",
        "backbone.segment_embedding": "bert.embeddings.token_type_embeddings",
        "backbone.embedding_norm": "bert.embeddings.LayerNorm",
        "backbone.pooler": "bert.pooler.dense",
        "heads.masked_language_model.transform": "cls.predictions.transform.dense",
        "heads.masked_language_model.norm": "cls.predictions.transform.LayerNorm",
        "heads.next_sentence.linear": "cls.seq_relationship",
    }
    for layer in range(LAYERS):
        block, other = f"backbone.blocks.{layer}", f"bert.encoder.layer.{layer}"
        names |= {
            f"{block}.attention.projection": f"{other}.attention.output.dense",
            f"{block}.attention_norm": f"{other}.attention.output.LayerNorm",
            f"{block}.feedforward.expansion": f"{other}.intermediate.dense",
            f"{block}.feedforward.projection": f"{other}.output.dense",
            f"{block}.feedforward_norm": f"{other}.output.LayerNorm",
        }
    weights = {}
    for name, value in ours.items():
        module, _, kind = name.rpartition(".")
        if module.endswith("attention.qkv"):
            layer = module.split(".")[2]
            for part, rows in zip((q, k, v), value.chunk(3), strict=True):
                weights[f"bert.encoder.layer.{layer}.attention.self.{part}.{kind}"] = rows
        elif module == "heads.masked_language_model":
            weights[f"cls.predictions.{'decoder.weight' if kind == 'weight' else 'bias'}"] = value
        else:
            weights[f"{names[module]}.{kind}"] = value
    weights["cls.predictions.decoder.bias"] = ours["heads.masked_language_model.bias"]
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected and all("position_ids" in name or "token_type_ids" in name for name in missing)
    return theirs.eval()


def perturbed(**changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "max_length": LENGTH}
    task, network = build(bert_config(**sizes, **changes))
    network.double().eval()
    with torch.no_grad():  # away from the special values of the start: biases 0, gains 1
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return task, network


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("segmented", [False, True], ids=["one text", "two texts"])
def test_hidden_states_pooler_logits_and_gradients_equal_transformers(padded, segmented):
    task, network = perturbed()
    theirs = reference(network)
    batch, length = 3, 13
    tokens = torch.randint(5, VOCAB_SIZE, (batch, length))
    lengths = torch.tensor([length, 5, 1]) if padded else None
    segments = torch.randint(2, (batch, length)) if segmented else None
    positions = torch.stack([torch.randperm(length)[:4] for _ in range(batch)])
    targets, labels = torch.randint(5, VOCAB_SIZE, (batch, 4)), torch.tensor([0, 1, 1])
    present = torch.arange(length) < (lengths if padded else torch.full((batch,), length))[:, None]
    if padded:
        tokens = tokens * present
        positions = torch.minimum(positions, lengths[:, None] - 1)

    expected = theirs(
        input_ids=tokens,
        attention_mask=present.long() if padded else None,
        token_type_ids=segments,
        output_hidden_states=True,
    )
    rows = torch.arange(batch)[:, None]
    features = network.backbone(tokens, lengths=lengths, segments=segments)
    output = network(tokens, lengths=lengths, segments=segments).predictions

    def close(ours, other):
        torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)

    close(features.hidden[present], expected.hidden_states[-1][present])
    close(features.pooled, theirs.bert.pooler(expected.hidden_states[-1]))
    close(output["masked_language_model"].at(positions).logits(), expected.prediction_logits[rows, positions])
    close(output["next_sentence"], expected.seq_relationship_logits)

    given = {"inputs": tokens, "positions": positions, "targets": targets, "labels": labels}
    context = {"lengths": lengths, "segments": segments}
    terms = task.compute_loss(network, given | {name: x for name, x in context.items() if x is not None}).terms
    guesses = expected.prediction_logits[rows, positions].flatten(0, 1)
    expected_loss = F.cross_entropy(guesses, targets.flatten(), reduction="sum")
    expected_next = F.cross_entropy(expected.seq_relationship_logits, labels, reduction="sum")
    close(terms["masked_language_model"].sum, expected_loss)
    close(terms["next_sentence"].sum, expected_next)
    (expected_loss + expected_next).backward()
    (terms["masked_language_model"].sum + terms["next_sentence"].sum).backward()
    embeddings = theirs.bert.embeddings
    close(network.backbone.token_embedding.weight.grad, embeddings.word_embeddings.weight.grad)
    close(network.backbone.positions.embedding.weight.grad, embeddings.position_embeddings.weight.grad)
    close(network.backbone.segment_embedding.weight.grad, embeddings.token_type_embeddings.weight.grad)
    close(network.heads["masked_language_model"].bias.grad, theirs.cls.predictions.bias.grad)


@pytest.mark.parametrize("norm_position", NormPosition)
def test_padding_changes_nothing(norm_position):
    _, network = perturbed(norm_position=norm_position)
    tokens, segments = torch.randint(5, VOCAB_SIZE, (2, 7)), torch.randint(2, (2, 7))
    alone = network.backbone(tokens[:, :5], segments=segments[:, :5])
    padded = network.backbone(tokens, lengths=torch.tensor([5, 5]), segments=segments)
    torch.testing.assert_close(padded.hidden[:, :5], alone.hidden, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded.pooled, alone.pooled, rtol=1e-12, atol=1e-12)
    seen = network.backbone(tokens, segments=segments)
    assert (seen.hidden[:, :5] - alone.hidden).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("preset", "size"),
    [("bert_tiny", 4_385_920), ("bert_mini", 11_170_560), ("bert_small", 28_763_648), ("bert_base", 109_482_240)],
)
def test_presets_have_their_published_sizes(preset, size):
    """Of https://github.com/google-research/bert: 4.4, 11.2, 28.8 and 110 million (embeddings, blocks, pooler)."""
    spec = DataSpec("text", "", {}, vocab_size=30522, sequence_length=512, special_tokens={"mask": 103})
    with torch.device("meta"):
        backbone = Bert(bert_config(preset), spec)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == size
    assert backbone.blocks[0].attention.head_size == 64


def test_weights_start_as_bert_s():
    torch.manual_seed(0)
    _, network = build(bert_config(hidden_size=128, num_heads=4), vocab_size=500)
    for name, parameter in network.named_parameters():
        if name.startswith("heads.next_sentence"):
            continue
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
    config = bert_config("bert_base")
    assert (config.norm_epsilon, config.dropout, config.attention_dropout) == (1e-12, 0.1, None)
    assert config.tie_embeddings and config.norm_position is NormPosition.post and config.max_length == 512
