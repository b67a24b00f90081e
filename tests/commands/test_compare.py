"""bigtrain compare through the installed command: tables, files, and what it says can't be compared; a run's report."""

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

from .conftest import COMMAND, TINY, Shell

TEXT = "The quick brown fox jumps over the lazy dog, and the dog, being lazy, lets it pass.\n" * 200
CORPUS = ["data=text_corpus", "data.path=text.txt", "data.sequence_length=32", "model.hidden_size=16"]
SHORT = ["trainer.gpus=0", "trainer.batch_size=4", "trainer.max_duration=8step", "trainer.eval_every=2step"]


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """Runs: a and b on one Markov chain; bytes and characters of one text. Tests must leave them as they are."""
    shell = Shell(tmp_path_factory.mktemp("compared"))
    shell.run(*TINY, "trainer.eval_every=5step", "name=a", "tracking.report=true", "+extra.api_key=SECRET-1")
    shell.run(*TINY, "trainer.eval_every=5step", "name=b", "optimizer.learning_rate=1e-4")
    (shell.folder / "text.txt").write_text(TEXT)
    for tokenizer in ("byte", "char"):
        words = [*CORPUS, *SHORT, f"data.tokenizer={tokenizer}", f"name={tokenizer}", "tracking.report=false"]
        shell.run(
            *words, "model.num_layers=1", "model.num_heads=1", "tracking.samples=false", "tracking.tensorboard=false"
        )
    return shell


def run_named(shell, name):
    (found,) = shell.folder.glob(f"outputs/{name}/*/config.yaml")
    return found.parent


def table(output):
    """Row name → cells."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def test_two_runs_side_by_side(shell):
    a, b = (run_named(shell, name) for name in "ab")
    rows = table(shell.run("compare", str(a), str(b), "path=compared").stdout)
    assert rows["optimizer.learning_rate"] == ["0.003", "0.0001"]
    assert "seed" not in rows and "name" not in rows
    for place, run in enumerate((a, b)):
        losses = {row["step"]: row["val/loss"] for row in shell.rows(run) if "val/loss" in row}
        best = min(losses, key=losses.get)
        assert rows["best val/loss"][place].endswith(f"(step {best})")
        assert rows["last val/loss"][place].endswith("(step 20)")
        assert float(rows["best val/loss"][place].split()[0]) == pytest.approx(losses[best], abs=1e-4)
    assert rows["steps"] == ["20", "20"] and rows["tokens"] == ["2,560", "2,560"]
    assert (shell.folder / "compared/compare.png").read_bytes().startswith(b"\x89PNG")
    with (shell.folder / "compared/compare.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["optimizer.learning_rate"] for line in lines] == ["0.003", "0.0001"]


def test_folders_and_patterns_name_runs(shell):
    by_pattern = shell.run("compare", "outputs/[ab]/*")
    by_folder = shell.run("compare", "outputs/a", "outputs/b")
    assert by_pattern.stdout == by_folder.stdout
    assert "can't be compared" not in by_folder.stdout


def test_other_data_is_not_compared(shell):
    output = shell.run("compare", "outputs/a", "outputs/byte").stdout
    assert "1 and 2: their data is synthetic/markov and text_corpus: no metric can be compared" in output


def test_of_other_tokenizers_bits_per_byte_are_compared(shell):
    output = shell.run("compare", "outputs/byte", "outputs/char").stdout
    assert "their tokenizers differ" in output and "bits per byte can" in output
    assert "best val/bits_per_byte" in output
    asked = shell.run("compare", "outputs/byte", "outputs/char", "metric=val/perplexity").stdout
    assert "(so not val/perplexity)" in asked


def test_runs_that_go_on_or_have_ended_badly(shell, tmp_path):
    for name, state in (("killed", "running"), ("ended", "failed"), ("sampled", "finished")):
        shutil.copytree(run_named(shell, "b"), tmp_path / name)
        status = json.loads((tmp_path / name / "status.json").read_text())
        status |= {"state": state, "reason": "error[X]: \x1b[2Jno\nmore"}
        if name == "sampled":
            status["best"]["sampled"] = {"metric": 1.5, "samples": 3}
            status["metrics"]["val/loss"] = 1.25
        (tmp_path / name / "status.json").write_text(json.dumps(status))
    shutil.rmtree(tmp_path / "killed/checkpoints")
    output = shell.run("compare", "outputs/a", str(tmp_path)).stdout
    with (shell.folder / "outputs/compare/compare.csv").open() as file:
        of_all = [line["best val/loss, all samples"] for line in csv.DictReader(file)]
    assert of_all[:3] == ["", "", ""] and of_all[3].startswith("1.2500 (step ")
    assert "(died without a word)" in output and "(failed: error[X]: " in output and "\x1b" not in output


def test_many_runs_stand_below_each_other(shell, tmp_path):
    """As the jobs of a sweep do: a = and commas in their names, given one by one."""
    names = [f"{number},learning_rate={number}e-3" for number in range(5)]
    for name in names:
        shutil.copytree(run_named(shell, "b"), tmp_path / name)
    output = shell.run("compare", *(str(tmp_path / name) for name in names)).stdout
    lines = output.splitlines()
    assert all(f"/{name}  (finished)" in line for name, line in zip(names, lines[:5], strict=True))
    assert sum(line.split()[:1] == [str(place)] for place in range(1, 6) for line in lines) == 10


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_tables_of_many_runs_fit_and_nothing_is_folded(shell, tmp_path, columns):
    """What does not fit goes into a further table; a shell's pattern may bring files that are no runs."""
    for number in range(6):
        folder = tmp_path / "sweep" / str(number)
        shutil.copytree(run_named(shell, "b"), folder)
        config = (folder / "config.yaml").read_text()
        changed = {"learning_rate: 0.0001": f"learning_rate: 0.000{number}", "dropout: 0.0": f"dropout: 0.{number}"}
        for old, new in changed.items():
            assert old in config
            config = config.replace(old, new)
        (folder / "config.yaml").write_text(config)
        (tmp_path / "sweep" / f"{number}.log").write_text("")
    shell = Shell(shell.folder, {**os.environ, "COLUMNS": str(columns)})
    output = shell.run("compare", *map(str, sorted((tmp_path / "sweep").iterdir()))).stdout
    assert "left out, as no run is there: 0.log, 1.log, 2.log, 3 more" in output
    rows = [line for line in output.splitlines() if re.match(r"  +\d  ", line)]
    assert len(rows) == {60: 12, 80: 12, 200: 6}[columns] and max(map(len, rows)) <= columns
    assert output.count("(step 20)") == 6
    for number in range(6):
        mine = " ".join(row for row in rows if row.split()[0] == str(number + 1))
        assert f" 0.{number} " in mine and "(step 20)" in mine


def test_a_terminal_gets_a_chart(shell):
    parent, child = pty.openpty()
    words = [str(COMMAND), "compare", "outputs/a", "outputs/b"]
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    process = subprocess.Popen(words, cwd=shell.folder, stdout=child, stderr=child, env=environment)
    os.close(child)
    shown = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(parent)
    assert process.wait(timeout=60) == 0
    assert len(re.findall("[▁▂▃▄▅▆▇█]{60}", shown.decode())) == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["outputs/nothing"], 4, "outputs/nothing: there is no run"),
        ([], 2, "needs two runs or more"),
        (["outputs/a"], 2, "needs two runs or more"),
        (["outputs/a", "outputs/b", "metric=val/los"], 2, "metric is val/los, which no run has logged"),
        (["outputs/a", "outputs/b", "metrik=val/loss"], 2, "did you mean metric"),
    ],
)
def test_mistakes(shell, words, code, said):
    assert said in shell.run("compare", *words, code=code).stderr


def test_it_needs_no_torch(shell):
    script = (
        "import sys; from bigtrain.cli import main; code = main(sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )
    words = [sys.executable, "-c", script, "compare", "outputs/a", "outputs/b"]
    assert subprocess.run(words, cwd=shell.folder, capture_output=True).returncode == 0


def test_a_run_ends_with_its_report(shell):
    run = run_named(shell, "a")
    text, page = ((run / f"report.{kind}").read_text() for kind in ("md", "html"))
    for part in ("## Results", "unigram loss", "optimum", "## Overfitting", "training samples", "## Sample", "## Cost"):
        assert part in text, part
    assert "`trainer.eval_every='5step'`" in text
    assert "SECRET-1" not in text + page
    assert (run / "report.html").stat().st_mode & 0o777 == 0o600
    assert not (run_named(shell, "b") / "report.md").exists()
