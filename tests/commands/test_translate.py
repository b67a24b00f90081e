"""Training, evaluating and asking an encoder-decoder; asked in this process: each start of the command costs time."""

import io
import json

import pytest

from bigtrain.cli import main
from bigtrain.commands.generate import refuse_unused
from bigtrain.config.run import GenerateConfig
from bigtrain.errors import ConfigError

from .conftest import MODEL, Shell

REVERSE = [
    "model=seq2seq",
    *MODEL,
    "data.longest=4",
    "data.train_samples=2000",
    "data.eval_samples=40",
    "trainer.gpus=0",
    "trainer.max_duration=20step",
    "trainer.batch_size=16",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A shell with one finished run, and what it printed; tests must leave it as it is."""
    shell = Shell(tmp_path_factory.mktemp("reversing"))
    shell.printed = shell.run(*REVERSE).stdout
    return shell


@pytest.fixture
def ask(trained, monkeypatch, capsys):
    """`bigtrain generate checkpoint=latest …` → (exit code, lines, what was said on stderr)."""
    monkeypatch.chdir(trained.folder)

    def asked(*words, stdin=""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(["generate", "checkpoint=latest", *words])
        printed = capsys.readouterr()
        return code, printed.out.splitlines(), printed.err

    return asked


def test_a_run_ends_with_what_the_model_writes_and_how_to_ask_it(trained):
    for word in ("exact match", "token accuracy", "above optimum 0", "reference", "written", "bigtrain generate"):
        assert word in trained.printed
    (run,) = trained.runs()
    rows = trained.rows(run)
    last = [row for row in rows if "val/greedy_exact_match" in row][-1]
    assert last["val/loss"] > 0 and last["val/excess"] == last["val/loss"]
    searched = [row for row in rows if "val/exact_match" in row]  # by all beams, at the end only
    assert searched == rows[-1:] and "test/exact_match" in rows[-1] and "val/greedy_exact_match" not in rows[-1]
    assert "bigtrain eval" not in trained.printed


def test_eval_finds_what_training_found(trained):
    (run,) = trained.runs()
    assert "exact match" in trained.run("eval", "checkpoint=latest", "split=val").stdout
    metrics = json.loads((run / "eval.json").read_text())["metrics"]
    assert {f"val/{name}": pytest.approx(value, rel=1e-6) for name, value in metrics.items()} == {
        name: value for name, value in trained.status(run)["metrics"].items() if name.startswith("val/")
    }


def test_the_best_targets_are_printed_one_a_line(ask):
    code, five, _ = ask("prompt=abcd", "num_samples=5")
    assert code == 0 and len(five) == len(set(five)) == 5
    assert all(set(line) <= set("abcdefghijklmnopqrstuvwxyz") for line in five)
    assert ask("prompt=abcd")[1] == five[:1]
    _, short, _ = ask("prompt=abcd", "num_beams=2", "length_penalty=0", "max_tokens=2", "num_samples=2")
    assert len(short) == 2 and all(len(line) <= 2 for line in short)
    assert len(ask("num_beams=1", stdin="abcd\nzz\n")[1]) == 2
    assert "first 6 are read" in ask("prompt=abcdefghi", "num_beams=1")[2]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["top_k=3"], 2, "top_k has no effect"),
        (["num_beams=2", "num_samples=3"], 2, "num_samples is 3"),
        (["prompt=abQ"], 3, "'Q'"),
    ],
)
def test_what_can_not_be_done_is_a_sentence(ask, words, code, said):
    found, lines, error = ask("prompt=abc", *words)
    assert (found, lines) == (code, []) and said in error


@pytest.mark.parametrize("setting", ["num_beams", "length_penalty"])
def test_beams_are_for_translations_only(setting):
    with pytest.raises(ConfigError, match=f"{setting} has no effect"):
        refuse_unused(GenerateConfig(**{setting: 2}), searches=False)
    refuse_unused(GenerateConfig(), searches=False)
