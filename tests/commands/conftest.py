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
    """Runs `bigtrain` as a person would, in one folder."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None):
        self.folder = folder
        self.environment = environment  # None: that of the tests

    def start(self, *words, **options):
        return subprocess.Popen(
            [str(COMMAND), *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **{"env": self.environment, **options},
        )

    def run(self, *words, code=0, stdin=""):
        done = self._run_installed(words, stdin) if self.environment else warm_command.run(words, self.folder, stdin)
        assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        return done

    def _run_installed(self, words, stdin):
        return subprocess.run(
            [str(COMMAND), *words],
            cwd=self.folder,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=200,
            env=self.environment,
        )

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
