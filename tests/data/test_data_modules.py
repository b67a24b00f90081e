"""What every registered data module promises, whatever it is."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from bigtrain.config.schema import field_types, register_parts
from bigtrain.config.settings import find_problems
from bigtrain.data.base import DataSpec
from bigtrain.data.mixture.config import SourceConfig
from bigtrain.data.text.config import Tokenizer
from bigtrain.errors import DataError
from bigtrain.registry import DATA
from tests.data import small_cifar

register_parts()
SMALL = {
    "python_docs": {},
    "text_corpus": {"path": "corpus"},
    "mixture": {"sources": {"a": {"path": "corpus"}, "b": {"path": "reviews.csv", "weight": 0.2}}},
    "markov": {"train_tokens": 5000, "eval_tokens": 1000},
    "idx": {"path": "images"},
    "glyphs": {"train_images": 100, "test_images": 20},
    "copy": {"train_samples": 50, "eval_samples": 20},
    "gaussian_mixture": {"train_samples": 50, "eval_samples": 20, "classes": 3, "features": 3},
    "random_labels": {"train_samples": 50, "eval_samples": 20},
    "string_pairs": {"train_samples": 50, "eval_samples": 20},
    "sentence_pairs": {"path": "pairs", "tokenizer": Tokenizer.byte},
    "text_classification": {"path": "reviews.csv"},
    "python_docs_topics": {},
    "linear": {"train_samples": 50, "eval_samples": 20},
    "disks": {"train_samples": 50, "eval_samples": 20},
    "cifar10": {"path": "cifar-10-batches-bin"},
    "cifar100": {"path": "cifar-100-binary"},
    "image_folder": {"path": "classes"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_idx_set):
    folder = tmp_path_factory.mktemp("data")
    (folder / "corpus").mkdir()
    for number in range(30):
        (folder / "corpus" / f"{number}.txt").write_text(f"Document {number} says: " + "so it goes. " * number)
    (folder / "reviews.csv").write_text("text,label\n" + "".join(f"Text {n},{n % 3}\n" for n in range(60)))
    (folder / "pairs").mkdir()
    for name in ("train", "val", "test"):
        for side, line in (("source", "a line of {}\n"), ("target", "{} line\n")):
            (folder / "pairs" / f"{name}.{side}").write_text("".join(line.format(word * 3) for word in "abcdefgh"))
    (folder / "images").mkdir()
    write_idx_set(folder / "images")
    generator = np.random.default_rng(0)
    for layout in small_cifar.LAYOUTS.values():
        small_cifar.write(folder, layout)
    for number in range(60):
        path = folder / "classes" / f"class {number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        small_cifar.shrink(patch)
        yield folder


@pytest.fixture(scope="module", params=DATA.names())
def build(request, folder, shared_cache):
    """Builds the module again and again from the same settings."""
    entry = DATA[request.param]
    settings = dict(SMALL[request.param])
    if "path" in settings:
        settings["path"] = str(folder / settings["path"])
    if "sources" in settings:
        sources = settings["sources"].items()
        settings["sources"] = {name: SourceConfig(**own | {"path": str(folder / own["path"])}) for name, own in sources}
    if "cache_dir" in field_types(entry.config_class):
        settings["cache_dir"] = shared_cache
    config = entry.config_class(**settings)
    assert find_problems(config) == []
    return lambda **changes: entry.load()(config, **changes)


def test_samples_and_spec_agree(build):
    data = build()
    assert set(data.spec.sizes) == {"train", "val", "test"}
    for split, size in data.spec.sizes.items():
        dataset = data.dataset(split)
        assert len(dataset) == size > 0
        samples = dataset.gather(np.array([size - 1, 0, 0]))
        if data.spec.kind == "text":
            tokens, scored = samples["tokens"], samples["scored"]
            assert tokens.shape == (3, data.spec.sequence_length + 1) and tokens.dtype is torch.int64
            assert scored.shape == (3, data.spec.sequence_length) and scored.dtype is torch.bool
            assert tokens.min() >= 0 and tokens.max() < data.spec.vocab_size == data.tokenizer.vocab_size
            assert data.spec.bytes_per_token[split] > 0
        elif data.spec.kind == "pairs":
            for side in ("source", "target"):
                tokens, lengths = samples[side], samples[f"{side}_lengths"]
                assert tokens.shape == (3, lengths.max()) and tokens.dtype is lengths.dtype is torch.int64
                assert tokens.min() >= 0 and tokens.max() < data.spec.vocab_size == data.tokenizer.vocab_size
                assert dataset.lengths[size - 1] >= lengths[0] and dataset.lengths.max() <= data.spec.sequence_length
        elif data.spec.kind == "sentences":
            tokens, lengths, labels = samples["tokens"], samples["lengths"], samples["labels"]
            assert tokens.shape == (3, lengths.max()) and labels.shape == (3,)
            assert {value.dtype for value in samples.values()} == {torch.int64}
            assert tokens.min() >= 0 and tokens.max() < data.spec.vocab_size == data.tokenizer.vocab_size
            assert lengths[1] == dataset.lengths[0] and dataset.lengths.max() <= data.spec.sequence_length
            assert labels.max() < data.spec.num_classes == len(data.spec.labels)
        else:
            inputs = samples[data.spec.kind]
            assert inputs.shape == (3, *data.spec.input_shape)
            assert inputs.dtype is {"images": torch.uint8, "vectors": torch.float32}[data.spec.kind]
            assert len(data.spec.normalization["std"]) == data.spec.input_shape[0]
            if data.spec.values:
                assert samples["values"].shape == (3, len(data.spec.values))
                assert samples["values"].dtype is torch.float32
                assert len(data.spec.value_normalization["std"]) == len(data.spec.values)
            else:
                labels = samples["labels"]
                assert labels.shape == (3,) and labels.dtype is torch.int64
                assert labels.max() < data.spec.num_classes == len(data.spec.labels)
        assert all((value[1] == value[2]).all() for value in samples.values())


def test_samples_are_the_callers_to_change(build):
    dataset = build().dataset("train")
    before = {name: value.clone() for name, value in dataset.gather(np.array([0, 1])).items()}
    for value in dataset.gather(np.array([0, 1])).values():
        value.zero_()
    assert all((dataset.gather(np.array([0, 1]))[name] == value).all() for name, value in before.items())


def test_the_spec_survives_json(build):
    spec = build().spec
    assert DataSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_built_again_with_its_own_tokenizer_it_is_the_same(build):
    data = build()
    assert build(tokenizer=data.tokenizer).spec == data.spec == build().spec


def test_a_split_of_another_name_is_an_error(build):
    with pytest.raises((DataError, KeyError)):
        build().dataset("validation")


def test_settings_are_known_without_torch():
    code = (
        "import sys; from bigtrain.config.schema import register_parts; register_parts(); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
