"""What a stage before has read of the texts that a model is measured on."""

import numpy as np
import pytest

from bigtrain.config.kinds import Audit
from bigtrain.data.audit.seen import seen_before
from bigtrain.data.synthetic.config import GaussianMixtureConfig
from bigtrain.data.synthetic.gaussian_mixture import GaussianMixture
from bigtrain.data.text.config import (
    PythonDocsConfig,
    PythonDocsTopicsConfig,
    TextClassificationConfig,
    TextCorpusConfig,
)
from bigtrain.data.text.python_docs import PythonDocs
from bigtrain.data.text.text_classification import TextClassification
from bigtrain.data.text.text_corpus import TextCorpus
from bigtrain.data.text.topics import PythonDocsTopics


@pytest.fixture
def planted(tmp_path):
    """A corpus whose training documents hold 3 of the 40 test texts and 2 of the 40 of val, some of them changed."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(list("abcdefghijklmnop"), 60)) for _ in range(200)]
    for name, part in {"train": texts[:120], "val": texts[120:160], "test": texts[160:]}.items():
        rows = [f"{text},{'xy'[number % 2]}" for number, text in enumerate(part)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    known = [texts[120].upper(), texts[121], texts[160] + "!", texts[161], texts[199]]
    other = [" ".join(draw.choice(list("qrstuvw"), 60)) for _ in range(100)]
    (tmp_path / "read.txt").write_text("\n\n".join([*other, *known]))
    (tmp_path / "later.txt").write_text("\n\n".join([*other[:3], *texts[160:]]))
    paths = {f"{name}_path": str(tmp_path / f"{name}.csv") for name in ("train", "val", "test")}
    config = TextClassificationConfig(**paths, cache_dir=str(tmp_path / "cache"), sequence_length=128)
    corpus = TextCorpusConfig(
        train_path=str(tmp_path / "read.txt"),
        val_path=str(tmp_path / "later.txt"),
        sequence_length=16,
        cache_dir=str(tmp_path / "cache"),
    )
    return config, TextClassification(config), TextCorpus(corpus)


def test_planted_texts_are_counted_from_the_training_documents_alone(planted):
    config, texts, corpus = planted
    for _ in range(2):  # computed, and from the cache
        assert [tuple(seen) for seen in seen_before(texts, config, corpus)] == [
            ("val", 2, 40, "texts"),
            ("test", 3, 40, "texts"),
        ]


def test_nothing_is_said_where_it_means_nothing(planted):
    config, texts, _ = planted
    mixture = GaussianMixture(GaussianMixtureConfig(train_samples=50, eval_samples=20))
    assert seen_before(texts, config, mixture) == []
    config.audit = Audit.off
    assert seen_before(texts, config, planted[2]) == []


def test_the_docstrings_of_the_topics_can_be_held_out(shared_cache):
    cache = shared_cache
    config = PythonDocsTopicsConfig(cache_dir=cache)
    topics = PythonDocsTopics(config)
    read = PythonDocs(PythonDocsConfig(cache_dir=cache))
    held_out = PythonDocs(PythonDocsConfig(cache_dir=cache, hold_out_topics=True))
    assert all(seen.found > 20 for seen in seen_before(topics, config, read))
    assert sum(seen.found for seen in seen_before(topics, config, held_out)) <= 2
    assert held_out.spec.sizes["train"] > 0.9 * read.spec.sizes["train"]
