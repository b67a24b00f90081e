"""`--help`: verbs, choices, and every setting of the chosen parts with its value and meaning.

Our own page: Hydra's knows no meanings, and is slow, as it copies its config repository once for every group.
"""

from __future__ import annotations

import dataclasses
import shutil
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bigtrain.config.compose import Composition
from bigtrain.config.schema import field_types, is_group, node_type, without_none
from bigtrain.config.strict import show
from bigtrain.config.verbs import VERBS

FLAGS = {
    "--help, -h": "this page; with model=cnn and the like, the settings of that choice",
    "--version": "bigtrain's version",
    "--multirun, -m": "one run for each combination of values: -m model=transformer,cnn seed=range(0,3); "
    "with sweep=optuna a search: sweep.trials sweep.n_jobs sweep.metric sweep.pruner sweep.startup_trials sweep.seed; "
    "with sweep=scaling a law of size and data is fitted: sweep.budget_flops sweep.parameters sweep.irreducible_loss "
    "sweep.sizes",
    "--dry-run": "with pipeline=: what would run, and what is there already",
    "--cfg job|hydra|all, -c": "print the composed config instead of running; --resolve resolves references",
    "--package KEY, -p": "with --cfg: only this node",
    "--info [all|config|defaults|defaults-tree|plugins|searchpath], -i": "how the config is put together",
    "--config-dir DIR, -cd": "a folder with your own YAML files, laid out like bigtrain's configs",
    "--config-name NAME, -cn": "another root YAML",
    "--shell-completion install=bash, -sc": 'tab completion: eval "$(bigtrain -sc install=bash)"',
    "--hydra-help": "Hydra's own help",
    "--debug": "show the traceback of an error",
}

EXIT_CODES = (
    "0 ok · 2 usage or config · 3 data · 4 checkpoint · 5 environment · 6 numerics · 70 a bug of ours · "
    "75 preempted, state saved, run it again · 130 interrupted twice"
)


def render_help(composition: Composition) -> str:
    """The page for a verb and its choices, as wide as the terminal."""
    verb = VERBS[composition.request.verb]
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [f"bigtrain {verb.name}: {verb.help}", "", f"usage: {verb.usage}", ""]
    lines += ["verbs:", *_table({f"bigtrain {each.name}": each.help for each in VERBS.values()}, width), ""]
    if composition.offered:
        lines += ["choices (* chosen now):", *_table(_choices(composition), width), ""]
    lines += ["settings, with their values now:"]
    for title, rows in _settings(composition.tree.config, "", ""):
        lines += ["", f"  {title}", *_table(rows, width)] if title else _table(rows, width)
    lines += ["", "flags:", *_table(FLAGS, width), "", "examples:", *(f"  {line}" for line in verb.examples)]
    lines += [
        "",
        "exit codes:",
        *textwrap.wrap(EXIT_CODES, width, initial_indent="  ", subsequent_indent="  "),
    ]
    return "\n".join(lines) + "\n"


def _choices(composition: Composition) -> dict[str, str]:
    rows = {}
    for group in composition.offered:
        options = composition.list_choices(group)
        if options:
            chosen = composition.choices.get(group)
            rows[f"{group}="] = ", ".join(f"{name}*" if name == chosen else name for name in options)
    return rows


def _settings(node: DictConfig, path: str, title: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Tables of settings: the node's own first, then one for each group below it."""
    config_class = node_type(node)
    hints = field_types(config_class)
    values: Any = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    rows, below = {}, []
    for field in dataclasses.fields(config_class):
        name = f"{path}{field.name}"
        if not is_group(hints[field.name]):
            rows[f"{name}={_value(values[field.name])}"] = field.metadata.get("help", "") + _members(hints[field.name])
        elif not OmegaConf.is_missing(node, field.name):
            child = node[field.name]
            summary = (node_type(child).__doc__ or "").splitlines()[0]
            below.append((child, f"{name}.", f"{name}: {summary}"))
    if rows:
        yield title, rows
    for child, below_path, below_title in below:
        yield from _settings(child, below_path, below_title)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else show(value)


def _members(hint: Any) -> str:
    inner = without_none(hint)
    if isinstance(inner, type) and issubclass(inner, Enum):
        return f" [{', '.join(inner.__members__)}]"
    return ""


def _table(rows: dict[str, str], width: int) -> list[str]:
    column = min(max((len(name) for name in rows), default=0) + 4, 44)
    lines = []
    for name, text in rows.items():
        head = f"  {name}"
        wrapped = textwrap.wrap(text, max(width - column, 30)) or [""]
        if len(head) > column - 2:
            lines.append(head)
            head = ""
        lines.append(f"{head:<{column}}{wrapped[0]}".rstrip())
        lines += [" " * column + line for line in wrapped[1:]]
    return lines
