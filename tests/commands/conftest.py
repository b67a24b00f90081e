"""The installed command, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import warm_command

COMMAND = Path(sys.executable).with_name("bigtrain")

MODEL = ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=2"]
MARKOV = [
    "data=synthetic/markov",
    "data.vocab_size=5",
    "data.order=1",
    "data.train_tokens=20000",
    "data.eval_tokens=2000",
]
TINY = [
    *MODEL,
    *MARKOV,
    "data.sequence_length=16",
    "trainer.gpus=0",
    "tracking.report=false",
    "trainer.max_duration=20step",
    "trainer.batch_size=8",
]
GLYPHS = [
    "model=cnn",
    "model.widths=[4]",
    "model.hidden_size=8",
    "data.train_images=240",
    "data.test_images=50",
    "tracking.report=false",
]


class Shell:
    """Runs `bigtrain` as a person would, in one folder: with its imports done, or `installed`: from its start."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, installed: bool = False):
        self.folder = folder
        self.environment = environment  # None: that of the tests
        self.installed = installed

    def start(self, *words, stdin="", **options):
        if not self.installed:
            return warm_command.start(words, self.folder, stdin, self.environment, **options)
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "text": True}
        return subprocess.Popen([COMMAND, *words], cwd=self.folder, env=self.environment, **streams, **options)

    def run(self, *words, code=0, stdin=""):
        process = self.start(*words, stdin=stdin)
        try:
            output, errors = process.communicate(timeout=200)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == code, output[-2000:] + errors[-2000:]
        assert "Traceback" not in errors
        return subprocess.CompletedProcess(words, code, output, errors)

    def runs(self):
        return sorted(path.parent for path in self.folder.glob("outputs/*/*/config.yaml"))

    def status(self, run):
        return json.loads((run / "status.json").read_text())

    def rows(self, run):
        return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def shell(tmp_path):
    return Shell(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A shell with one finished language-model run; tests must leave it as it is."""
    shell = Shell(tmp_path_factory.mktemp("trained"))
    shell.run(*TINY, "model.dropout=0.1")
    return shell


os.environ.setdefault("XDG_CACHE_HOME", str(Path(os.environ.get("TMPDIR", "/tmp")) / f"bigtrain-tests-{os.getuid()}"))
