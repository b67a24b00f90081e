"""A word of `-m` that names several files: `data.path=a.txt,b.txt`, `data.path=glob(*.txt)`.

A path is taken as it stands, because file names may hold commas. So the disk decides: the parts are several values
where no file has the whole as its name, and each part is a file.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from pathlib import Path

from bigtrain.config.hydra_adapter import Glob, HydraException, Override, parse_override, texts_override
from bigtrain.errors import Problem

_FUNCTION = re.compile(r"(choice|glob)\(.*\)", re.DOTALL)


def is_sweep_of_files(value: str) -> bool:
    """Whether a path has the form `choice(…)` or `glob(…)`, and no file has that name."""
    return bool(_FUNCTION.fullmatch(value)) and not found(value)


def files_override(key: str, value: str, word: str) -> Override | Problem | None:
    """The several values of a path, or what is wrong with them; None where it is one path."""
    if value.startswith("glob(") and is_sweep_of_files(value):
        return _of_glob(key, value, word)
    parts = [part.strip() for part in value.split(",")]
    there = [part for part in parts if part and found(part)]
    if len(parts) == 1 or not there or found(value):
        return None
    if len(there) < len(parts):
        missing = ", ".join(part or "an empty one" for part in parts if part not in there)
        fix = f"correct it; for one file with a comma in its name: \"{key}='{value}'\""
        message = f"{key}: of {len(parts)} paths there is no {missing}"
        return Problem("CONFIG-SWEEP", message, f'command line, "{word}"', fix)
    return texts_override(key, parts, word)


def _of_glob(key: str, value: str, word: str) -> Override | Problem:
    cause = f'command line, "{word}"'
    try:
        pattern = parse_override(f"{key}={value}").value()
    except HydraException:
        pattern = None
    if not isinstance(pattern, Glob):
        fix = f"for instance {key}=glob(texts/*.txt), {key}=glob([a/*,b/*],exclude=*.csv)"
        return Problem("CONFIG-SWEEP", f"{key}: the pattern can't be read", cause, fix)
    matched = sorted({path for include in pattern.include for path in found(include)})
    kept = [path for path in matched if not any(fnmatch.fnmatch(path, exclude) for exclude in pattern.exclude)]
    if not kept:
        return Problem(
            "CONFIG-SWEEP", f"{key}: no file is like {', '.join(pattern.include)}", cause, "look at the path"
        )
    return texts_override(key, kept, word)


def found(path: str) -> list[str]:
    """The files and folders of this name, or of this pattern."""
    try:
        place = str(Path(path).expanduser())
        return [place] if os.path.lexists(place) else glob.glob(place, recursive=True)  # noqa: PTH207 (takes any path)
    except (ValueError, OSError, RuntimeError):  # no name that a file could have
        return []
