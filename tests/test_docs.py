"""The pages of docs/ that are read from top to bottom are true: their commands run in this order, their outputs have
today's form, their files are real. Pages to look things up in: test_readme.py; links of all pages: test_project.py.

A comment above a block says what a reader would see:

    <!-- exit 2 -->            the block is refused, with this exit code
    <!-- Ctrl-C -->            the reader presses Ctrl-C; the state is saved
    <!-- not run -->           installs or serves; run by tests of its own (test_scripts, test_seeing_a_run)
    <!-- output -->            lines that the commands just above print, but for their numbers
    <!-- file: PATH -->        the file PATH of tests/plugin_package, whole
    <!-- in: PATH -->          lines of PATH in the repository
    <!-- output: COMMAND -->   on the pages of test_readme.py: what the command printed
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.commands import warm_command
from tests.commands.conftest import COMMAND
from tests.distributed.ranks import LOOPBACK

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PACKAGE = ROOT / "tests/plugin_package"

NOT_RUN = r"git clone|\./scripts/run --version|source \.venv/bin/activate|mkdir \.\./|tensorboard --logdir outputs"
STOPPED = 75
STEPS, LONG_ENOUGH_TO_STOP = 4, 400
SHORTER = ["trainer.limit_samples=8", "trainer.batch_size=4", "trainer.eval_every=null", "trainer.gpus=0"]
SMALL = {  # by page: what its trainings get, where their words don't say otherwise
    "tutorial": ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=1", "tracking.sample_tokens=5"],
    "add_a_model": ["model.hidden_size=8", "data.sequence_length=8", "tracking.sample_tokens=5"],
    "add_an_optimizer": ["model.hidden_size=16", "model.num_layers=1", "model.num_heads=1", "tracking.sample_tokens=5"],
}

# Into a folder of the test's own, and without the network.
PIP = """#!/bin/bash
[[ "$1 $2" == "install -e" ]] || exit 9
exec {python} -m pip install --no-deps --no-build-isolation --no-index --quiet --target {into} "$3"
"""


class Block(NamedTuple):
    """A fenced block: the words of the comment above it, its language, its text."""

    mark: str
    language: str
    text: str


def blocks(text: str, language: str = r"\w+") -> Iterator[Block]:
    """All blocks of a page, or of a part of it; or those of one language."""
    pattern = rf"(?:<!-- ([^\n]*?) -->\n)?```({language})\n(.*?)```"
    for mark, found, inside in re.findall(pattern, text, flags=re.DOTALL):
        yield Block(mark, found, inside)


def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text()


class Reader:
    """Types the blocks of a page into a shell, in a folder of its own; `bigtrain` itself runs with its imports done.

    Only where the reader presses Ctrl-C, or sets a variable for the command, is it the installed command.
    """

    def __init__(self, name: str, folder: Path, python_path: Path):
        self.folder = folder / "work"
        self.small = [*SHORTER, *SMALL[name]]
        programs = folder / "bin"
        for made in (self.folder, programs, python_path):
            made.mkdir(parents=True, exist_ok=True)
        write_program(programs / "pip", PIP.format(python=sys.executable, into=python_path))
        path = [str(programs), str(COMMAND.parent), os.environ["PATH"]]
        self.environment = {
            **os.environ,
            "COLUMNS": "100",
            "PATH": os.pathsep.join(path),
            "PYTHONPATH": str(python_path),
            "GLOO_SOCKET_IFNAME": LOOPBACK,
        }

    def read(self, text: str) -> None:
        """Every block in its order."""
        printed = ""
        for block in blocks(text):
            if block.language == "sh" and block.mark == "not run":
                assert all(re.match(NOT_RUN, line) for line in block.text.splitlines()), block.text
            elif block.language == "sh":
                printed = self.run(block)
            elif block.mark == "output":
                forms = {form(line) for line in printed.splitlines()}
                for line in block.text.splitlines():
                    assert form(line) in forms, f"this is not printed any more: {line}\n{printed}"

    def run(self, block: Block) -> str:
        """One block of commands; its output, errors included."""
        interrupts = block.mark == "Ctrl-C"
        expected = STOPPED if interrupts else int(block.mark.removeprefix("exit ") or 0)
        lines = [self.shortened(line, LONG_ENOUGH_TO_STOP if interrupts else STEPS) for line in block.text.splitlines()]
        printed, code = "", 0
        for is_warm, group in itertools.groupby(lines, lambda line: line.startswith("bigtrain") and not interrupts):
            for typed in group if is_warm else ["\n".join(group)]:
                assert code == 0, f"{block.text}\n{printed[-3000:]}"
                said, code = self.run_warm(typed) if is_warm else self.run_in_shell(typed, interrupts)
                printed += said
        assert code == expected, f"{block.text}\n{printed[-3000:]}"
        assert "Traceback" not in printed
        return printed

    def shortened(self, line: str, steps: int) -> str:
        """A training gets a small model and this many steps (instead of 200, too), where its words don't say otherwise.
        Any other line stays as it is.
        """
        start, command, words = line.partition("bigtrain")
        if not command or not re.fullmatch(r"(\w+=\S+ )?", start):
            return line
        typed = shlex.split(words.replace("max_duration=200step", f"max_duration={steps}step"))
        if typed[:1] not in (["eval"], ["generate"]) and not re.search("resume=|--help|--cfg", words):
            added = [*self.small, f"trainer.max_duration={steps}step"]
            typed += [word for word in added if f" {word.partition('=')[0]}=" not in words]
        return start + shlex.join(["bigtrain", *typed])

    def run_warm(self, line: str) -> tuple[str, int]:
        """Output, errors included, and exit code of a `bigtrain` command."""
        done = warm_command.run(shlex.split(line)[1:], self.folder, environment=self.environment)
        return done.stdout + done.stderr, done.returncode

    def run_in_shell(self, text: str, interrupts: bool) -> tuple[str, int]:
        """Output, errors included, and exit code of any lines."""
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        before = self.runs_that_log()
        while interrupts and process.poll() is None:
            if self.runs_that_log() - before:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                break
            time.sleep(0.01)
        printed, _ = process.communicate(timeout=120)
        return printed, process.returncode

    def runs_that_log(self) -> set[Path]:
        """The metrics of runs that have made their first steps."""
        return {path for path in self.folder.glob("outputs/*/*/metrics.jsonl") if path.stat().st_size}


def write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def form(line: str) -> str:
    """A line of output without what differs from run to run: numbers, run folders, the widths of a table."""
    line = re.sub(r"outputs/[\w./-]+", "outputs/", line)
    line = re.sub(r"\d[\d,.:]*(e[+-]?\d+)?[kMGT]?", "#", line)
    return " ".join(re.sub("─+", "─", line).split())


def write_package(name: str, folder: Path) -> None:
    """The package that a guide prints."""
    for block in blocks(page(name)):
        if block.mark.startswith("file: "):
            path = folder / block.mark.removeprefix("file: ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def copy_repository(folder: Path) -> None:
    """What of the repository the guide's commands need, with the guide's changes made."""
    ignored = shutil.ignore_patterns("__pycache__", "local", "plugin_package")
    for name in ("bigtrain", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "bigtrain/configs").symlink_to("../configs")
    (folder / "scripts").mkdir()
    write_program(folder / "scripts/test", f'#!/bin/bash\nexec {sys.executable} -m pytest -p no:cacheprovider "$@"\n')
    changes = {block.mark.removeprefix("in: "): block.text for block in blocks(page("add_a_model"))}
    written = {block.mark.removeprefix("file: "): block.text for block in blocks(page("add_a_model"))}

    settings = written["bag_of_context/config.py"]
    config = "bigtrain/models/config.py"
    edit(folder / config, r"\Z", "\n\n" + settings[settings.index("@dataclass") : settings.index("MODELS.register")])
    edit(folder / config, r"\Z", changes[config])
    module = "bigtrain/models/bag_of_context.py"
    (folder / module).write_text(written["bag_of_context/model.py"])
    edit(folder / module, r"from bag_of_context(.*\n)+from bigtrain.*\n", changes[module])
    choice = "configs/model/bag_of_context.yaml"
    (folder / choice).write_text(written[f"bag_of_context/{choice}"])
    sizes = "tests/tiny_networks.py"
    edit(
        folder / sizes, r"(?=from bigtrain\.models\.config)", "from bigtrain.models.config import BagOfContextConfig\n"
    )
    edit(folder / sizes, r"(?<=TINY = {\n)", changes[sizes])


def edit(path: Path, pattern: str, text: str) -> None:
    """Puts text in the place of the one thing that the pattern matches."""
    changed, count = re.subn(pattern, lambda _: text, path.read_text())
    assert count == 1, f"{path}: {pattern} matches {count} times"
    path.write_text(changed)


def test_the_tutorial_runs_from_top_to_bottom(tmp_path: Path) -> None:
    reader = Reader("tutorial", tmp_path, tmp_path / "packages")
    reader.read(page("tutorial"))
    assert list(reader.folder.glob("outputs/**/events.out.tfevents.*")), "nothing for TensorBoard to show"


def test_the_guide_makes_a_package_that_trains_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    reader = Reader("add_a_model", tmp_path, tmp_path / "packages")
    write_package("add_a_model", reader.folder)
    reader.read(page("add_a_model").partition("\n## Inside the repository\n")[0])


def test_the_guide_adapts_optimizers_that_train_and_go_on_to_the_same_bytes(tmp_path: Path) -> None:
    reader = Reader("add_an_optimizer", tmp_path, tmp_path / "packages")
    write_package("add_an_optimizer", reader.folder)
    reader.read(page("add_an_optimizer"))


@pytest.mark.slow  # a minute; by default the same steps are gone through in a package
def test_the_guide_adds_a_model_to_the_repository_whose_tests_then_test_it(tmp_path: Path) -> None:
    reader = Reader("add_a_model", tmp_path, tmp_path / "work")
    copy_repository(reader.folder)
    reader.read(page("add_a_model").partition("\n## Inside the repository\n")[2])


def test_the_guide_prints_the_package_that_other_tests_train_and_kill() -> None:
    printed = {block.mark.removeprefix("file: "): block.text for block in blocks(page("add_a_model"))}
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert printed.get(str(path.relative_to(PACKAGE))) == path.read_text(), path


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_mark_is_one_that_is_heeded(path: Path) -> None:
    known = r"exit \d+|Ctrl-C|not run|output|file: \S+|in: \S+" if path.stem in SMALL else "output: bigtrain.*"
    marks = re.findall(r"<!-- (.*?) -->", path.read_text())
    assert not [mark for mark in marks if not re.fullmatch(known, mark)]
    assert len(marks) == sum(1 for block in blocks(path.read_text()) if block.mark), "a mark stands above no block"
