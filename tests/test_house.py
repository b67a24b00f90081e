"""The plan of the house, held by reading the source: import direction, sizes, docstrings, forbidden calls.

Nothing here imports bigtrain: a rule about text is checked on the text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bigtrain"

# From the ground up: a module imports from its own floor and those before it in this list, never from a later one.
# The longest prefix that fits decides; `*.config` is the settings of a kind.
LAYERS = [
    {
        "bigtrain",
        "bigtrain.errors",
        "bigtrain.registry",
        "bigtrain.randomness",
        "bigtrain.signals",
        "bigtrain.tracking",
    },
    {"bigtrain.config", "*.config", "bigtrain.storage"},
    {"bigtrain.distributed"},
    {"bigtrain.data"},
    {"bigtrain.nn", "bigtrain.optim"},
    {"bigtrain.tasks", "bigtrain.models", "bigtrain.sweep"},
    {"bigtrain.training", "bigtrain.report"},
    {"bigtrain.build", "bigtrain.interop", "bigtrain.pipeline", "bigtrain.planning"},
    {"bigtrain.commands", "bigtrain.cli", "bigtrain.__main__"},
]
# On one floor rooms may import each other, as long as no circle of rooms comes of it.
# Answered without torch: --help, completion, --cfg and every refused typo pass through these.
TORCH_FREE = {
    "bigtrain.cli",
    "bigtrain.__main__",
    "bigtrain.errors",
    "bigtrain.registry",
    "bigtrain.config",
    "*.config",
    "bigtrain.sweep",
    "bigtrain.storage",
}

LONGEST_FILE = 350
LONGEST_FUNCTION = 50


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(), filename=str(path)) for name, path in SOURCES.items()}


def is_package(name: str) -> bool:
    return SOURCES[name].name == "__init__.py"


def room(name: str) -> tuple[int, str]:
    """The layer of a module, and the entry of `LAYERS` that put it there."""
    if name.endswith(".config"):
        return 1, "*.config"
    for prefix in (name.rsplit(".", cut)[0] for cut in range(name.count(".") + 1)):
        for number, layer in enumerate(LAYERS):
            if prefix in layer and (prefix != "bigtrain" or name == "bigtrain"):
                return number, prefix
    raise AssertionError(f"{name} has no layer: add it to LAYERS")


def runs_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that importing the module runs: function bodies and `if TYPE_CHECKING:` left out."""
    for node in ast.iter_child_nodes(tree):
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from runs_at_import(node)


def imported_modules(name: str, nodes: Iterator[ast.AST]) -> set[str]:
    """Modules that these nodes of module `name` import; ours resolved to the file that is meant."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if is_package(name) else name.split(".")[:-1]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            found |= {module for module in inner if module in SOURCES}
            if not inner <= set(SOURCES):
                found.add(base)
    return found


def ours(modules: set[str]) -> set[str]:
    return {module for module in modules if module.split(".")[0] == "bigtrain" and module != "bigtrain.configs"}


def test_imports_run_downwards_only() -> None:
    wrong = []
    for name, tree in TREES.items():
        layer, place = room(name)
        for module in ours(imported_modules(name, ast.walk(tree))):
            other_layer, other_place = room(module)
            if other_layer > layer:
                wrong.append(f"{name} ({place}) may not import {module} ({other_place}), a higher floor")
    assert not wrong, "\n".join(wrong)


def test_rooms_do_not_import_each_other_in_a_circle() -> None:
    """`tasks` and `models` least of all: every model serves every task without knowing it."""
    graph: dict[str, set[str]] = {}
    for name, tree in TREES.items():
        place = room(name)[1]
        others = {room(module)[1] for module in ours(imported_modules(name, ast.walk(tree)))}
        graph.setdefault(place, set()).update(others - {place, "bigtrain", "*.config"})
    graph.pop("*.config", None)  # the settings of a room lie in it, and are read everywhere
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("rooms import each other: " + " → ".join(error.args[1]))
    assert "bigtrain.models" not in graph["bigtrain.tasks"]
    assert "bigtrain.tasks" not in graph["bigtrain.models"]


def test_no_import_cycle_at_top_level() -> None:
    graph = {name: ours(imported_modules(name, runs_at_import(tree))) for name, tree in TREES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("modules import each other: " + " → ".join(error.args[1]))


def test_torch_stays_out_of_what_answers_before_training() -> None:
    wrong = []
    for name, tree in TREES.items():
        if not (room(name)[1] in TORCH_FREE or name in TORCH_FREE or is_package(name)):
            continue
        at_import = imported_modules(name, runs_at_import(tree))
        wrong += [f"{name} imports {module}" for module in at_import if module.split(".")[0] == "torch"]
        if is_package(name):
            others = [module for module in ours(at_import) if room(module)[1] not in TORCH_FREE]
            wrong += [
                f"importing any part of {name} would import {module}" for module in others if module != "bigtrain"
            ]
    assert not wrong, "\n".join(wrong)


def test_files_and_functions_stay_readable() -> None:
    wrong = []
    for name, tree in TREES.items():
        lines = len(SOURCES[name].read_text().splitlines())
        if lines > LONGEST_FILE:
            wrong.append(f"{SOURCES[name]} has {lines} lines: split it")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    wrong.append(f"{name}.{node.name} has {length} lines: split it")
    assert not wrong, "\n".join(wrong)


def public_definitions(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public classes and functions of a module. Methods explain themselves where they need to."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            yield node


def test_modules_and_public_names_have_docstrings() -> None:
    missing = [str(SOURCES[name]) for name, tree in TREES.items() if not ast.get_docstring(tree)]
    for name, tree in TREES.items():
        missing += [f"{name}.{node.name}" for node in public_definitions(tree) if not ast.get_docstring(node)]
    assert not missing, "no docstring: " + ", ".join(missing)


def forbidden(tree: ast.AST) -> list[str]:
    """Uses of what would run code out of a file that a stranger hands over."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    builtins = {"eval", "exec", "compile", "__import__"}
    attributes = {("torch", "load"), ("os", "system"), ("yaml", "unsafe_load"), ("yaml", "full_load")}
    attributes |= {("yaml", loader) for loader in ("Loader", "CLoader", "FullLoader", "UnsafeLoader")}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in modules]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")[0]
            found += [f"{module}.{a.name}" for a in node.names if module in modules or (module, a.name) in attributes]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in builtins:
            found.append(node.func.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found += [ast.unparse(node)] if (node.value.id, node.attr) in attributes else []
        if isinstance(node, ast.keyword) and node.arg in {"allow_pickle", "shell"}:
            found += [f"{node.arg}=True"] if ast.unparse(node.value) != "False" else []
    return found


def test_no_file_can_run_code() -> None:
    found = {name: uses for name, tree in TREES.items() if (uses := forbidden(tree))}
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "x = torch.load(f)",
        "from torch import load",
        "eval('1')",
        "exec(text)",
        "yaml.load(text, Loader=yaml.FullLoader)",
        "numpy.load(f, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_check_on_running_code_sees_each_way(text: str) -> None:
    assert forbidden(ast.parse(text))


def test_calling_a_method_named_eval_is_allowed() -> None:
    assert not forbidden(ast.parse("model.eval()\nre.compile('x')\nnumpy.load(f, allow_pickle=False)"))


def tree_of_the_code() -> list[str]:
    """The paths that CONTRIBUTING.md's tree names: the fenced block that has a line beginning with `bigtrain/`."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    trees = [block for block in blocks if re.search(r"^bigtrain/", block, flags=re.MULTILINE)]
    assert len(trees) == 1, "CONTRIBUTING.md needs one tree: a fenced block with a line that begins with bigtrain/"
    paths, above = [], []  # above: (indentation, path) of the folders that the line lies in
    for line in trees[0].splitlines():
        entry = line.replace("│", " ").replace("├", " ").replace("└", " ").replace("─", " ")
        if not entry.strip() or entry.strip().startswith("#"):
            continue
        indent = len(entry) - len(entry.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        name = entry.split()[0]
        path = "/".join([*(folder for _, folder in above[-1:]), name.rstrip("/")])
        paths.append(path)
        if name.endswith("/"):
            above.append((indent, path))
    return paths


def test_the_tree_in_contributing_is_true() -> None:
    named = tree_of_the_code()
    assert not [path for path in named if not (ROOT / path).exists()], "the tree names what is not there"
    rooms = {str(path.parent.relative_to(ROOT)) for path in SOURCES.values()}
    assert not rooms - set(named), "the tree leaves out parts of the package"
