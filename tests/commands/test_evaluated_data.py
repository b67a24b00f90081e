"""What `bigtrain eval data.path=...` measures: the run's own split, or other data, compared with what it has learnt."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from bigtrain.build import build_data
from bigtrain.commands.evaluated_data import evaluated_data, training_data
from bigtrain.config.kinds import Audit
from bigtrain.config.run import EvalConfig, EvalDataConfig, RunConfig, TrainerConfig
from bigtrain.data.images.config import IDXConfig, ImageFolderConfig
from bigtrain.data.text.config import SentencePairsConfig, TextClassificationConfig, TextCorpusConfig, Tokenizer
from bigtrain.errors import DataError

from .conftest import MODEL

DRAW = np.random.default_rng(0)
TEXTS = [" ".join(DRAW.choice(list("abcdefghijklmnop"), 40)) for _ in range(160)]
IMAGES = DRAW.integers(0, 255, (80, 6, 6), dtype=np.uint8)


def write_table(path, texts):
    path.write_text("\n".join(["text,label", *(f"{text},{'xy'[TEXTS.index(text) % 2]}" for text in texts)]) + "\n")


def write_corpus(path, texts):
    path.write_text("\n\n".join(texts))


def write_pairs(path, texts):
    path.mkdir()
    for name, part in {"train": texts[20:], "val": texts[:10], "test": texts[10:20]}.items():
        (path / f"{name}.source").write_text("\n".join(part))
        (path / f"{name}.target").write_text("\n".join(text[::-1] for text in part))


def write_folder(path, images):
    for number, image in enumerate(images):
        place = path / ("test" if number < 20 else "train") / "xy"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)


def write_idx(path, images):
    path.mkdir()
    for name, part in {"t10k": images[:20], "train": images[20:]}.items():
        sizes = b"".join(size.to_bytes(4, "big") for size in part.shape)
        (path / f"{name}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + sizes + part.tobytes())
        labels = (np.arange(len(part)) % 2).astype(np.uint8)
        header = bytes([0, 0, 8, 1]) + len(labels).to_bytes(4, "big")
        (path / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())


KINDS = {
    "table": (TextClassificationConfig, write_table, TEXTS, "d.csv"),
    "corpus": (TextCorpusConfig, write_corpus, TEXTS, "d.txt"),
    "pairs": (SentencePairsConfig, write_pairs, TEXTS, "d"),
    "folder": (ImageFolderConfig, write_folder, IMAGES, "d"),
    "idx": (IDXConfig, write_idx, IMAGES, "d"),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def run_on(kind, folder, **settings):
    """A checkpoint's facts, and the data it was trained on: of 160 texts or 80 images the first 100 or 60."""
    config_class, write, samples, name = KINDS[kind]
    write(folder / name, samples[: 100 if samples is TEXTS else 60])
    if config_class is SentencePairsConfig:
        settings["tokenizer"] = Tokenizer.byte
    if config_class is not IDXConfig:
        settings["cache_dir"] = str(folder / "cache")
    return loaded_of(config_class(**{"path": str(folder / name), **settings}))


def loaded_of(data_config, **trainer):
    nothing = dict.fromkeys(("model", "task", "optimizer", "scheduler"))
    config = RunConfig(data=data_config, trainer=TrainerConfig(**trainer), **nothing)
    data = build_data(config)
    return SimpleNamespace(config=config, spec=data.spec, tokenizer=data.tokenizer), data


def measured(loaded, path, split="auto"):
    return evaluated_data(loaded, EvalConfig(split=split, data=EvalDataConfig(path=str(path) if path else None)))


@every_kind
def test_the_own_path_is_the_own_split_however_it_is_spelled(kind, tmp_path, monkeypatch):
    loaded, data = run_on(kind, tmp_path)
    name = KINDS[kind][3]
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / f"link-{name}").symlink_to(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (None, name, tmp_path / name, f"inner/link-{name}", f"inner/../{name}"):
        for split in ("auto", "val", "train"):
            found = measured(loaded, path, split)
            assert found.data.spec == data.spec and found.to_json() is None
            assert found.split == ("test" if split == "auto" else split)


@every_kind
def test_other_data_is_compared_with_the_training_data(kind, tmp_path):
    loaded, data = run_on(kind, tmp_path)
    _, write, samples, name = KINDS[kind]
    write(tmp_path / f"other-{name}", samples[-20:])
    if kind in ("table", "corpus"):
        assert measured(loaded, tmp_path / f"other-{name}").to_json()["found"] == 0
    write(tmp_path / f"planted-{name}", stacked(known_samples(kind, data), samples[-30:]))
    found = measured(loaded, tmp_path / f"planted-{name}", "train" if kind == "corpus" else "auto").to_json()
    if kind == "corpus":  # 20 of 50 texts, of which 45 are its training split
        assert 0.35 < found["found"] / found["total"] < 0.5
        return
    # A table is measured as a whole; of pairs and images, the first 20 are val and test, or test.
    known, total = {"table": (20, 50), "pairs": (10, 10)}.get(kind, (20, 20))
    assert (found["found"], found["total"]) == (known, total)


def known_samples(kind, data):
    """Twenty of what is trained on; of a corpus none that a border of the splits runs through."""
    if kind in ("table", "corpus"):
        return [one.text for one in data.originals.open()() if one.split == "train" and one.text in TEXTS][:20]
    return TEXTS[20:40] if kind == "pairs" else data.dataset("train").gather(np.arange(20))["images"].numpy()[:, 0]


def stacked(known, others):
    return np.concatenate((known, others)) if isinstance(known, np.ndarray) else [*known, *others]


def test_a_copy_and_a_file_that_was_moved_are_the_runs_own(tmp_path):
    loaded, data = run_on("table", tmp_path)
    shutil.copy(tmp_path / "d.csv", tmp_path / "copy.csv")
    assert measured(loaded, tmp_path / "copy.csv").data.spec == data.spec
    (tmp_path / "d.csv").rename(tmp_path / "moved.csv")
    assert measured(loaded, tmp_path / "moved.csv", "val").data.spec == data.spec


def test_what_can_not_be_compared_is_said(tmp_path):
    loaded, _ = run_on("table", tmp_path)
    write_table(tmp_path / "other.csv", TEXTS[-20:])
    (tmp_path / "d.csv").unlink()
    gone = measured(loaded, tmp_path / "other.csv")
    assert "d.csv" in gone.to_json()["not_compared"] and gone.data.spec.sizes == {"test": 20}
    write_table(tmp_path / "d.csv", TEXTS[:99])
    assert "changed" in measured(loaded, tmp_path / "other.csv").to_json()["not_compared"]
    assert "changed" in measured(loaded, None).to_json()["not_compared"]
    few, _ = loaded_of(loaded.config.data, limit_samples=5)
    assert "limit_samples" in measured(few, tmp_path / "other.csv").to_json()["not_compared"]
    unwatched, _ = loaded_of(TextClassificationConfig(path=str(tmp_path / "d.csv"), audit=Audit.off))
    assert "audit" in measured(unwatched, tmp_path / "other.csv").to_json()["not_compared"]
    assert isinstance(training_data(few), str) and not isinstance(training_data(unwatched), str)


def test_a_corpus_is_compared_however_its_lines_fall(tmp_path):
    lines = [text[:30] for text in TEXTS]
    (tmp_path / "d.txt").write_text("\n".join(lines[:120]))
    loaded, _ = loaded_of(TextCorpusConfig(path=str(tmp_path / "d.txt"), cache_dir=str(tmp_path / "cache")))
    (tmp_path / "part.txt").write_text("\n".join(lines[10:100]))
    (tmp_path / "other.txt").write_text("\n".join(lines[120:]))
    part, other = (measured(loaded, tmp_path / name, "train").to_json() for name in ("part.txt", "other.txt"))
    assert part["found"] == part["total"] > 40 and part["unit"] == "stretches of 50 tokens"
    assert other["found"] == 0 and other["total"] > 20


def test_the_file_of_a_split_is_that_split(tmp_path):
    for name, part in {"a": TEXTS[:60], "b": TEXTS[60:80], "c": TEXTS[80:100]}.items():
        write_table(tmp_path / f"{name}.csv", part)
    paths = {f"{split}_path": str(tmp_path / f"{name}.csv") for split, name in zip(("train", "val"), "ab", strict=True)}
    loaded, data = loaded_of(TextClassificationConfig(**paths, cache_dir=str(tmp_path / "cache")))
    for name, split in (("a", "train"), ("b", "val")):
        found = measured(loaded, tmp_path / f"{name}.csv")
        assert found.split == split and found.data.spec == data.spec
    other = measured(loaded, tmp_path / "c.csv")
    assert other.split == "test" and other.to_json() == {"found": 0, "total": 20, "unit": "texts"}
    with pytest.raises(DataError, match="no val split"):
        measured(loaded, tmp_path / "c.csv", "val")


def test_the_command_warns_and_records_it(shell):
    write_table(shell.folder / "d.csv", TEXTS[:100])
    write_table(shell.folder / "more.csv", TEXTS[:120])
    train = [*MODEL, "task=classification", "data=text_classification", "data.path=d.csv", "data.cache_dir=cache"]
    shell.run(*train, "trainer.gpus=0", "trainer.max_duration=2step", "tracking.report=false", "name=known")
    own = shell.run("eval", "checkpoint=latest", "data.path=./d.csv")
    assert own.stdout == shell.run("eval", "checkpoint=latest").stdout and "warning" not in own.stderr
    more = shell.run("eval", "checkpoint=latest", "data.path=more.csv")
    assert "80 of 120 texts stand in the training data" in more.stderr
    (run,) = shell.runs()
    found = json.loads((run / "eval.json").read_text())["in_training_data"]
    assert found == {"found": 80, "total": 120, "unit": "texts"}
    prompted = shell.run("generate", "checkpoint=latest", stdin="\n".join(TEXTS[:120]) + "\n")
    assert prompted.stderr.count("stands in the training data") == 80


def test_advice_names_no_setting_that_eval_does_not_have(tmp_path):
    loaded, _ = run_on("table", tmp_path)
    (tmp_path / "other.tsv").write_text("review\tlabel\na\t1\n")
    (tmp_path / "utf16.tsv").write_text("text\tlabel\na\t1\n", encoding="utf-16")
    for name, advice in {"other.tsv": r"data.text_column is \['text'\]", "utf16.tsv": "it is UTF-8"}.items():
        with pytest.raises(DataError, match=f"make it like the run's own files.*: {advice}$"):
            measured(loaded, tmp_path / name)
