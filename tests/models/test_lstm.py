"""The recurrent network: torch's cells stepped by hand, padding that changes nothing, a state that goes on."""

import pytest
import torch
from tiny_networks import IMAGES, SENTENCES, TEXT, drawn, perturb, samples, tiny_config, tiny_network
from torch import nn

from bigtrain.config.settings import find_problems
from bigtrain.errors import ConfigError
from bigtrain.models.config import Cell, LSTMConfig, Pooling, RecurrentInit
from bigtrain.models.lstm import LSTM, VariationalDropout, reverse
from bigtrain.tasks.config import ClassificationConfig
from bigtrain.tasks.generation import Sampling, generate

EVERY_CELL = pytest.mark.parametrize("cell", list(Cell), ids=lambda cell: cell.name)
BOTH = pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both"])
EXACT = {"rtol": 0, "atol": 1e-12}


def backbone(spec=SENTENCES, **changes):
    torch.manual_seed(0)
    return perturb(drawn(LSTM(tiny_config(LSTMConfig, **changes), spec)).double())


def by_hand(recurrence, x_TD):
    """One row, through torch's cell of the same weights, position after position."""
    kind = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[type(recurrence)]
    cell = kind(recurrence.input_size, recurrence.hidden_size).double()
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in recurrence.state_dict().items()})
    state, hidden = None, []
    for x_D in x_TD:
        state = cell(x_D[None], state)
        hidden.append(state[0] if kind is nn.LSTMCell else state)
    return torch.cat(hidden)


def padded_batch():
    batch = samples(SENTENCES, 5)
    return batch["tokens"], batch["lengths"]


@EVERY_CELL
@BOTH
def test_cells_stepped_by_hand_give_the_same(cell, bidirectional):
    network = backbone(cell=cell, bidirectional=bidirectional)
    tokens, lengths = padded_batch()
    features = network(tokens, lengths=lengths)
    for row, length in enumerate(lengths):
        x = network.token_embedding(tokens[row, :length])
        for block in network.blocks:
            directions = [by_hand(block.left_to_right, x)]
            if bidirectional:
                directions.append(by_hand(block.right_to_left, x.flip(0)).flip(0))
            x = torch.cat(directions, dim=1)
        torch.testing.assert_close(features.hidden[row, :length], x, **EXACT)
        ends = [directions[0][-1], *(direction[0] for direction in directions[1:])]
        torch.testing.assert_close(features.pooled[row], torch.cat(ends), **EXACT)


@EVERY_CELL
@BOTH
@pytest.mark.parametrize("pooling", list(Pooling), ids=lambda pooling: pooling.name)
def test_padding_changes_nothing(cell, bidirectional, pooling):
    network = backbone(cell=cell, bidirectional=bidirectional, pooling=pooling)
    tokens, lengths = padded_batch()
    together = network(tokens, lengths=lengths).pooled
    wider = torch.cat((tokens, torch.full((5, 9), 3)), dim=1)  # whatever stands there
    torch.testing.assert_close(network(wider, lengths=lengths).pooled, together, **EXACT)
    for row, length in enumerate(lengths):
        alone = network(tokens[row : row + 1, :length]).pooled
        torch.testing.assert_close(alone[0], together[row], **EXACT)


def test_pooling_is_of_the_tokens_vectors():
    tokens, lengths = padded_batch()
    for pooling, reduce in ((Pooling.mean, lambda x: x.mean(0)), (Pooling.max, lambda x: x.max(0).values)):
        features = backbone(pooling=pooling)(tokens, lengths=lengths)
        expected = [reduce(hidden[:length]) for hidden, length in zip(features.hidden, lengths, strict=True)]
        torch.testing.assert_close(features.pooled, torch.stack(expected), **EXACT)


def test_reversing_leaves_padding_where_it_is_and_undoes_itself():
    x = torch.arange(1.0, 9.0).view(2, 4, 1)
    lengths = torch.tensor([4, 2])
    assert reverse(x, lengths)[..., 0].tolist() == [[4, 3, 2, 1], [6, 5, 7, 8]]
    assert torch.equal(reverse(reverse(x, lengths), lengths), x)
    assert torch.equal(reverse(x, None), x.flip(1))


@EVERY_CELL
def test_from_a_state_it_goes_on_as_if_it_had_never_stopped(cell):
    network = backbone(TEXT, cell=cell)
    tokens = samples(TEXT, 3)["tokens"]
    whole = network(tokens, network.initial_state(3))
    assert torch.equal(whole.hidden, network(tokens).hidden)
    state, pieces = network.initial_state(3), []
    for first, last in ((0, 5), (5, 6), (6, 7), (7, tokens.shape[1])):
        features = network(tokens[:, first:last], state)
        pieces.append(features.hidden)
        state = features.state
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole.hidden, **EXACT)
    torch.testing.assert_close(state, whole.state, **EXACT)
    assert state.shape == (3, 2, 2 if cell is Cell.lstm else 1, 24)


@EVERY_CELL
def test_it_generates_with_its_state_what_it_would_without(cell):
    network = perturb(tiny_network(tiny_config(LSTMConfig, cell=cell, tie_embeddings=True))[1].double())
    tokens = torch.tensor([[1, 2, 3], [4, 5, 6]])
    actual = generate(network, tokens, 40, Sampling(temperature=0))  # longer than any window it was trained on
    with torch.no_grad():
        for _ in range(40):
            logits = network(tokens).predictions["language_model"].last_logits()
            tokens = torch.cat((tokens, logits.argmax(dim=1, keepdim=True)), dim=1)
    assert torch.equal(actual, tokens[:, 3:])


@BOTH
def test_only_one_direction_is_causal_or_has_a_state(bidirectional):
    network = backbone(TEXT, bidirectional=bidirectional)
    tokens = samples(TEXT, 2)["tokens"]
    later = tokens.clone()
    later[:, 7] = (later[:, 7] + 1) % 11
    unchanged = torch.equal(network(later).hidden[:, :7], network(tokens).hidden[:, :7])
    assert unchanged is not bidirectional
    if bidirectional:
        with pytest.raises(ValueError, match="both directions"):
            network(tokens, network.initial_state(2))


def test_in_both_directions_it_serves_classification_only():
    config = LSTMConfig(bidirectional=True)
    assert config.gives() == ("pooled",)
    assert LSTMConfig().gives() == ("causal", "pooled")
    task, network = tiny_network(tiny_config(LSTMConfig, bidirectional=True), 0, ClassificationConfig(), SENTENCES)
    batch = task.collate(samples(SENTENCES, 8), training=True)
    task.compute_loss(network, batch).terms["loss"].sum.backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in network.parameters())


@pytest.mark.parametrize("embedding_size", [None, 10])
def test_a_tied_table_of_another_width_is_reached_by_a_projection(embedding_size):
    config = tiny_config(LSTMConfig, tie_embeddings=True, embedding_size=embedding_size)
    _, network = tiny_network(config)
    assert network.heads["language_model"].weight is network.backbone.token_embedding.weight
    assert network.backbone.hidden_size == (embedding_size or 24)
    projections = [name for name, _ in network.named_parameters() if "projection" in name]
    assert len(projections) == (2 if embedding_size else 0)
    assert network(torch.zeros(2, 3, dtype=torch.int64)).predictions["language_model"].logits().shape == (2, 3, 11)


def test_variational_dropout_drops_the_same_features_everywhere():
    dropped = VariationalDropout(0.5)(torch.ones(4, 7, 1000))
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert abs(dropped.mean() - 1) < 0.1
    assert not torch.equal(dropped[0], dropped[1])


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("where", ["dropout", "embedding_dropout"])
def test_each_dropout_acts_in_training_only(where, variational):
    network = backbone(TEXT, variational_dropout=variational, **{where: 0.5})
    tokens = samples(TEXT, 2)["tokens"]
    assert not torch.equal(network(tokens).hidden, network(tokens).hidden)
    plain = backbone(TEXT)
    assert torch.equal(network.eval()(tokens).hidden, plain(tokens).hidden)


def test_orthogonal_recurrent_weights_and_a_forget_bias_of_one():
    cell = drawn(LSTM(LSTMConfig(hidden_size=16), TEXT)).blocks[0].left_to_right
    for gate in cell.weight_hh_l0.split(16):
        torch.testing.assert_close(gate @ gate.T, torch.eye(16))
    bias = cell.bias_ih_l0 + cell.bias_hh_l0
    assert bias.tolist() == [0.0] * 16 + [1.0] * 16 + [0.0] * 32
    assert torch.linalg.matrix_rank(cell.weight_hh_l0.view(4, 256)) == 4  # gates are drawn apart
    network = drawn(LSTM(LSTMConfig(hidden_size=16, recurrent_init=RecurrentInit.torch), TEXT))
    for name, parameter in network.blocks[0].left_to_right.named_parameters():  # torch: U(-1/4, 1/4)
        assert 0.2 < parameter.abs().max() <= 0.25 and abs(parameter.mean()) < 0.1, name


def test_what_has_no_effect_is_refused():
    both = LSTMConfig(bidirectional=True, tie_embeddings=True, variational_dropout=True)
    sentences = [problem.message for problem in find_problems(both)]
    assert len(sentences) == 2
    assert "tie_embeddings" in sentences[0] and "variational_dropout" in sentences[1]
    assert not find_problems(LSTMConfig(variational_dropout=True, embedding_dropout=0.1))


def test_images_are_refused():
    with pytest.raises(ConfigError, match="images"):
        LSTM(LSTMConfig(), IMAGES)
