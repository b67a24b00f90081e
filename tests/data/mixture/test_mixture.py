"""A mixture is its sources' windows under one tokenizer; each counts as its weight says, in training and evaluation."""

import numpy as np
import pytest
import torch

from bigtrain.build import build_data, build_parts
from bigtrain.data.base import Source, parts_of_sources
from bigtrain.data.fixed_sample import FixedSample
from bigtrain.data.limited import LimitedData
from bigtrain.data.mixture.config import MixtureConfig, SourceConfig
from bigtrain.data.mixture.mixture import Mixture
from bigtrain.data.text.config import Tokenizer
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.distributed.world import World
from bigtrain.errors import DataError
from bigtrain.randomness import SeedDomain
from bigtrain.tasks.config import LanguageModelingConfig
from bigtrain.tasks.language_modeling import LanguageModeling
from bigtrain.training.evaluator import Evaluator

from ...config.composing import composed, refusal
from ...training.conftest import make_trainer, tiny_config  # noqa: F401 a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    (folder / "wiki").mkdir()
    for number in range(40):
        (folder / "wiki" / f"{number}.txt").write_text(f"Article {number} is on the number {number}. " * 5)
    (folder / "code.txt").write_text("".join(f"x{number} = {number} + y\n<end>\n" for number in range(150)))
    return folder


@pytest.fixture
def mixture(folder, tmp_path):
    """mixture(wiki=0.7, code=0.3, tokenizer="byte", …) → its settings."""

    def config(wiki=0.7, code=0.3, tokenizer="byte", **settings):
        sources = {
            "wiki": SourceConfig(path=str(folder / "wiki"), weight=wiki),
            "code": SourceConfig(path=str(folder / "code.txt"), weight=code, document_separator="<end>"),
        }
        settings = {"sequence_length": 16, "cache_dir": str(tmp_path / "cache"), "split": "0.8,0.1,0.1", **settings}
        return MixtureConfig(sources=sources, tokenizer=Tokenizer[tokenizer], **settings)

    return config


@pytest.mark.parametrize("tokenizer", ["byte", "char", "bpe"])
def test_it_has_the_windows_of_each_source_with_one_tokenizer(mixture, tokenizer):
    config = mixture(tokenizer=tokenizer, vocab_size=280 if tokenizer == "bpe" else None)
    data = Mixture(config)
    alone = {name: TextCorpus(one, data.tokenizer) for name, one in config.corpora().items()}
    assert list(alone) == ["code", "wiki"] and data.tokenizer.end_of_text is not None
    for split, size in data.spec.sizes.items():
        dataset = data.dataset(split)
        found = dataset.gather(np.arange(size))
        expected = [corpus.dataset(split).gather(range(corpus.spec.sizes[split])) for corpus in alone.values()]
        for name in ("tokens", "scored"):
            assert torch.equal(found[name], torch.cat([samples[name] for samples in expected]))
        ids = np.array([size - 1, 0, 3, 0])
        assert torch.equal(dataset.gather(ids)["tokens"], found["tokens"][ids])
    again = Mixture(config)
    assert again.spec == data.spec and again.tokenizer.to_json() == data.tokenizer.to_json()


def test_what_it_is_follows_from_texts_and_weights_not_from_the_order_of_names(mixture):
    specs = [Mixture(mixture(**weights)).spec for weights in ({}, {"code": 0.4}, {"attend_across_documents": False})]
    assert len({spec.fingerprint for spec in specs}) == 3
    config = mixture()
    config.sources = dict(reversed(config.sources.items()))
    assert Mixture(config).spec == specs[0]


def test_a_few_samples_are_of_every_source(mixture):
    data = LimitedData(Mixture(mixture()), 20, overfit=False)
    few = data.dataset("train")
    assert [(source.name, source.size) for source in few.sources] == [("code", 6), ("wiki", 14)]
    assert len(few) == data.spec.sizes["train"] == 20
    sample = FixedSample(Mixture(mixture()).dataset("train"), 50, SeedDomain.TRAIN_SAMPLE, in_stretches=False)
    assert [source.size for source in sample.sources] == [15, 35] and len(sample) == 50


@pytest.mark.parametrize(
    ("sizes", "size", "expected"),
    [
        ((900, 100), 1000, [900, 100]),
        ((900, 100), 500, [400, 100]),
        ((900, 1000), 100, [30, 70]),
        ((900, 1000), 5000, [900, 1000]),
        ((5, 5), 1, [1, 1]),
    ],
)
def test_what_a_small_source_is_short_of_comes_from_the_others(sizes, size, expected):
    sources = [Source("a", sizes[0], 0.3), Source("b", sizes[1], 0.7)]
    assert parts_of_sources(sources, size) == [(0, expected[0]), (sizes[0], expected[1])]


def test_an_evaluation_weights_each_source_and_says_its_loss(mixture, make_trainer):  # noqa: F811
    settings = mixture(wiki=0.3, code=0.7)  # far from the sizes, which would give another mean
    trainer = make_trainer(tiny_config(data=settings, task=LanguageModelingConfig()))
    evaluator, module = trainer.evaluator, trainer.module.double()
    metrics = evaluator.evaluate("val").metrics
    losses = {}
    for name, corpus in {
        name: TextCorpus(one, evaluator.data.tokenizer) for name, one in settings.corpora().items()
    }.items():
        alone = Evaluator(module, module.task, corpus, trainer.precision, 8, World(0, 1, torch.device("cpu")))
        losses[name] = alone.evaluate("val").metrics["loss"]
        assert metrics[f"{name}_loss"] == pytest.approx(losses[name], rel=1e-12)
    # Of windows that are all full, the last of each source but one.
    assert metrics["loss"] == pytest.approx(0.3 * losses["wiki"] + 0.7 * losses["code"], rel=1e-2)
    assert isinstance(module.task, LanguageModeling) and evaluator.sample_metrics("val").keys() == metrics.keys()


def test_ranks_share_the_same_batch(mixture):
    config = tiny_config(data=mixture())
    data = build_data(config)
    loaders = [
        build_parts(config, data, World(rank, ranks, torch.device("cpu"))).loader
        for ranks in (1, 2, 4)
        for rank in range(ranks)
    ]
    for step in (0, 7, 1000):
        inputs = [loader.micro_batches(step)[0]["inputs"] for loader in loaders]
        assert torch.equal(torch.cat(inputs[1:3]), inputs[0]) and torch.equal(torch.cat(inputs[3:]), inputs[0])


def test_what_is_wrong_with_a_source_names_it(mixture, tmp_path):
    config = mixture()
    config.sources["wiki"].path = str(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"wiki: data\.sources\.wiki\.path=.*nowhere gives no text"):
        Mixture(config)


def test_sources_are_named_on_the_command_line_and_checked_strictly():
    words = ("data=mixture", "data.sources.a.path=a.txt", "data.sources.a.weight=0.3", "data.sources.b.path=b, c.txt")
    sources = composed(*words).config.data.sources
    assert {name: (one.path, one.weight) for name, one in sources.items()} == {
        "a": ("a.txt", 0.3),
        "b": ("b, c.txt", 1),
    }
    assert "did you mean data.sources.a.path" in refusal("data=mixture", "data.sources.a.pth=a.txt")
    for word, expected in {
        "data.sources.b.weight=0": "data.sources.b.weight is 0.0; it must be above 0",
        "data.sources.b.encoding=utf9": "data.sources.b.encoding is 'utf9'",
        "data.sources.a.train_path=x": "data.sources.a.path and train_path are both given",
        "data.sources.c.weight=2": "data.sources.c.path is missing",
        "data.sources.a=3": "data.sources.a",
        "data.source.a.path=x": "data.source",
    }.items():
        assert expected in refusal(*words, word)
    assert "data.sources names 0 corpora" in refusal("data=mixture")
