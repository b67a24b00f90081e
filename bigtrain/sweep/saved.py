"""sweep.json: the overrides that a search or a scaling sweep was started with, for `-m resume=<sweep directory>`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from bigtrain.config.hydra_adapter import Override
from bigtrain.config.library import Request
from bigtrain.config.redact import redact_overrides
from bigtrain.config.yaml_files import MAX_DOCUMENT_BYTES, read_text
from bigtrain.errors import ConfigError, Problem

FILE = "sweep.json"
"""In a sweep's directory: the overrides it was started with."""

_VERSION = 1
_MAY_CHANGE = {
    "sweep=optuna": ("sweep.trials", "sweep.n_jobs"),
    "sweep=scaling": ("sweep.budget_flops", "sweep.parameters", "sweep.irreducible_loss", "hydra.launcher.n_jobs"),
}


def document_of(request: Request) -> dict[str, Any]:
    """What sweep.json holds."""
    folder = None if request.config_dir is None else str(Path(request.config_dir).absolute())
    return {
        "version": _VERSION,
        "words": list(request.overrides),
        "config_name": request.config_name,
        "config_dir": folder,
        "plugins": list(request.plugins),
    }


def hidden_words(request: Request) -> list[Problem]:
    """A problem where an override that would be kept holds a secret."""
    words = request.overrides
    hidden = [word for word, shown in zip(words, redact_overrides(words), strict=True) if word != shown]
    if not hidden:
        return []
    message = f"{hidden[0].partition('=')[0]} holds a secret, and a sweep keeps its words to go on later"
    return [Problem("CONFIG-SWEEP", message, fix="let it come from the environment: '${oc.env:NAME}'")]


def saved_request(request: Request, overrides: list[Override]) -> tuple[Request, Path]:
    """`-m resume=<sweep directory>`: what that sweep was asked for, with what may change, and its directory.

    Raises ConfigError where there is no such sweep, or the overrides ask for another one.
    """
    typed = {override.key_or_group: override for override in overrides}
    where = str(typed.pop("resume").value())
    output_dir = str(typed.pop("output_dir").value()) if "output_dir" in typed else "outputs"
    _refuse_others(typed, tuple(key for keys in _MAY_CHANGE.values() for key in keys))
    sweep_dir = _find_sweep(where, Path(output_dir))
    saved = _read(sweep_dir / FILE)
    _refuse_others(typed, next((keys for kind, keys in _MAY_CHANGE.items() if kind in saved["words"]), ()))
    if tuple(saved["plugins"]) != request.plugins:
        word = f"plugins=[{','.join(saved['plugins'])}]"
        fix = f"add {word}" if saved["plugins"] else "leave plugins= out"
        raise ConfigError.of("PLUGIN-MISSING", f"{sweep_dir} was started with {word}", fix=fix)
    words = [word for word in saved["words"] if word.partition("=")[0] not in typed]
    words += [str(override.input_line) for override in typed.values()]
    folder, name = saved["config_dir"], saved["config_name"]
    return dataclasses.replace(request, overrides=tuple(words), config_dir=folder, config_name=name), sweep_dir


def _refuse_others(typed: dict[str, Override], allowed: tuple[str, ...]) -> None:
    other = [override for key, override in typed.items() if key not in allowed]
    if other:
        cause = f'command line, "{other[0].input_line}"'
        fix = f"leave it out, or start a new sweep; {' and '.join(allowed)} may change"
        raise ConfigError.of("RESUME-CHANGE", "a sweep goes on with its own words", cause=cause, fix=fix)


def _find_sweep(where: str, output_dir: Path) -> Path:
    found = [path.parent for path in output_dir.glob(f"*/sweeps/*/{FILE}")]
    latest = max(found, key=lambda path: path.name, default=None)
    path = latest if where == "latest" else Path(where).expanduser()
    if path is not None and (path / FILE).is_file():
        return path
    cause = f"{output_dir} holds no sweep of sweep=optuna or sweep=scaling" if path is None else f"{path} has no {FILE}"
    fix = f"the newest sweep is {latest}" if latest else "a single run goes on without -m: bigtrain resume=…"
    message = f"resume={where}: there is no sweep to go on with"
    raise ConfigError.of("RESUME-MISSING", message, cause=cause, fix=fix)


def _read(path: Path) -> dict[str, Any]:
    try:
        saved = json.loads(read_text(path, MAX_DOCUMENT_BYTES))
        lists = [saved["words"], saved["plugins"]]
        names = [saved["config_dir"], saved["config_name"]]
        fine = saved["version"] == _VERSION and all(isinstance(item, list) for item in lists)
        fine = fine and all(isinstance(item, str) for row in lists for item in row)
        fine = fine and all(item is None or isinstance(item, str) for item in names)
    except (ValueError, KeyError, TypeError, RecursionError):
        fine = False
    if not fine:
        raise ConfigError.of("CONFIG-FILE", f"{path} is damaged", fix="start a new sweep; the runs in it are intact")
    checked: dict[str, Any] = saved
    return checked
