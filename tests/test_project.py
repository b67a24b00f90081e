"""What stands beside the code agrees with it: version, licence, the hooks and the workflow that run what landing asks.

The pages that people read have links that lead somewhere, and name no path of one machine.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import bigtrain

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
YAML = [ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff", *(ROOT / ".github").rglob("*.yml")]


def test_every_page_names_this_version() -> None:
    versions = re.findall(r"^## \[(\d.*?)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert versions[0] == (bigtrain.__version__, str(citation["date-released"]))
    assert citation["version"] == bigtrain.__version__
    assert PYPROJECT["project"]["dynamic"] == ["version"]


def test_every_place_names_this_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0" in text and "END OF TERMS AND CONDITIONS" in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PYPROJECT["project"]["license"] == citation["license"] == "Apache-2.0"


def test_the_hooks_are_the_stages_of_the_test_command_and_load_nothing() -> None:
    """A hook mends the format, where the test command looks at it."""
    script = (ROOT / "scripts/test").read_text()
    stages = re.findall(r"^(?:stage \w+)? +(ruff .*|mypy)(?: 2>&1 .*)?$", script, flags=re.MULTILINE)
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in repository["hooks"]]
    assert hooks == [stage.removesuffix(" --check") for stage in stages]
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    pinned = re.findall(r"^(\w+)==", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert {"ruff", "mypy"} <= set(pinned)


def test_the_workflow_runs_the_test_command_where_we_say_that_it_works() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["./scripts/test"]
    places = {(row["os"].partition("-")[0], row["python"]) for row in job["strategy"]["matrix"]["include"]}
    assert {("ubuntu", "3.11"), ("ubuntu", "3.13")} < places
    assert "macos" in {system for system, _ in places}
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert min(float(python.partition(".")[2]) for _, python in places) == float(oldest.partition(".")[2])


def test_the_linter_sees_every_python_program() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix]
    programs = {f"scripts/{path.name}" for path in scripts if "python" in path.read_text().partition("\n")[0]}
    assert programs == set(PYPROJECT["tool"]["ruff"]["extend-include"])


@pytest.mark.parametrize("name", ["run", "test", "environment.sh"])
def test_shell_scripts_use_nothing_that_only_linux_has(name: str) -> None:
    """As far as reading tells: macOS has bash 3.2 and BSD's tools."""
    text = re.sub(r"(^|\s)#.*", "", (ROOT / "scripts" / name).read_text(), flags=re.MULTILINE)
    gnu = r"readlink -f|realpath|\bnproc\b|head -\w*q|sed -i|grep -\w*P|date -d|stat -c|timeout |/proc/"
    assert not re.findall(rf"{gnu}|mapfile|declare -A|\$\{{\w+,,", text)


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_files_that_others_read_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        target, _, place = link.partition("#")
        page = path.parent / target if target else path
        assert link.startswith("https://") or page.exists(), link
        if place and not link.startswith("https://"):
            assert place in headings(page.read_text()), link


def headings(text: str) -> list[str]:
    """The anchors of a page's headings."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found]


@pytest.mark.parametrize("group", ["model", "task", "data"])
def test_every_choice_is_named_in_the_readme_or_on_the_page_about_data(group: str) -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/data.md").read_text()
    folder = ROOT / "configs" / group
    choices = {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml")}
    named = set(re.findall(r"`(?:data=)?([\w/]+)`", text))
    assert not choices - named


def test_every_page_of_docs_is_reached_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(docs/(\w+\.\w+)\)", (ROOT / "README.md").read_text()))
    assert {path.name for path in (ROOT / "docs").iterdir()} == linked


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_name_no_folder_of_one_machine(path: Path) -> None:
    assert not re.findall(r"(?<![\w.])/(?:home|root|work|Users|tmp)/", path.read_text())
