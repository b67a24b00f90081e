"""Reading YAML files of settings, ours and others': every file is checked before its values are built.

A config is data. So a file is small and shallow, has no aliases (258 bytes of nested aliases took 33 s), no
tags, no key twice, no `hydra:` node (which could name code to run), and its interpolations only point:
`${other.key}`, `${oc.env:NAME}`, `${hydra:runtime.choices.model}`.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigtrain.errors import ConfigError, Problem

MAX_BYTES = 256_000
MAX_DOCUMENT_BYTES = 1_000_000
MAX_DEPTH = 32
MAX_NODES = 1500  # keys and values; OmegaConf takes about 1 ms for each
MAX_REFERENCES = 50  # in one text
RESOLVERS = ("oc.env", "hydra")

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INNERMOST = re.compile(r"\$\{([^${}]*)\}")
_BEFORE = re.compile(r"(\\*)\$\{")


def read_config(path: Path) -> tuple[Any, str | None]:
    """The values of a file of settings, references unresolved, and the package of its header, None without one.

    Raises ConfigError naming file and line.
    """
    text = read_text(path, MAX_BYTES)
    root = parse_checked(text, str(path))
    if not isinstance(root, (yaml.MappingNode, type(None))):
        raise _refused(path, root, "no keys", "write key: value")
    for key, value in root.value if root else []:
        if key.value == "hydra":
            raise _refused(path, key, "a hydra: node", "remove it; bigtrain sets Hydra up itself")
        if key.value == "defaults":
            _check_defaults(path, value)
    try:
        return OmegaConf.load(io.StringIO(text)), _package(text)
    except (OmegaConfBaseException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError.of("CONFIG-FILE", f"{path} can't be used", cause=reason) from error


def _package(text: str) -> str | None:
    """What the header `# @package NAME` names. As with Hydra, it stands before any other line, comments included."""
    for line in filter(None, map(str.strip, text.splitlines())):
        if not re.match(r"#\s*@", line):
            return None
        key, *values = line.lstrip("#").split()
        if len(values) != 1:
            raise ValueError(f"{line} is not a header of the form: # @package NAME")
        if key == "@package":
            return values[0]
    return None


def read_text(path: Path, limit: int) -> str:
    """The text of a small file. Raises ConfigError when it is too large, unreadable or not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ConfigError.of("CONFIG-FILE", f"{path} is larger than {limit // 1000} kB", fix="shorten it")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of("CONFIG-FILE", f"{path} can't be read", cause=str(error)) from error


def parse_checked(text: str, name: str) -> yaml.Node | None:
    """The node tree of a YAML text that keeps the rules above. Raises ConfigError naming line and rule."""
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
            if count > 2 * MAX_NODES:
                raise _refused(name, event, f"more than {MAX_NODES} keys and values", "shorten it")
            if getattr(event, "anchor", None):  # an alias has one too
                raise _refused(name, event, "an anchor or alias (& or *)", "write the value out")
            if getattr(event, "tag", None):
                raise _refused(name, event, f"the tag {event.tag}", "remove it; plain values need no tag")
            if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                depth += 1
                if depth > MAX_DEPTH:
                    raise _refused(name, event, f"more than {MAX_DEPTH} levels", "flatten it")
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                depth -= 1
            elif isinstance(event, yaml.ScalarEvent) and (resolver := foreign_resolver(event.value)):
                fix = "allowed: ${other.key}, ${oc.env:NAME}, ${hydra:runtime.choices.model}"
                raise _refused(name, event, f"the resolver ${{{resolver}:…}}", fix)
        root = yaml.compose(text, Loader=_Loader)
        _refuse_duplicates(root, name)
        return root
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        cause = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError.of("CONFIG-FILE", f"{name}{place} is not valid YAML", cause=cause) from error


def foreign_resolver(text: str) -> str:
    """The name of a resolver in `text` that is not allowed ("?" where it can't be told), or an empty text.

    Interpolations are taken away from the inside out, so that a name put together by another one is seen too.
    """
    if "${" not in text or all(len(match[1]) % 2 for match in _BEFORE.finditer(text)):
        return ""  # none, or only escaped ones
    if text.count("${") > MAX_REFERENCES:
        return "?"
    while match := _INNERMOST.search(text):
        name, colon, _ = match[1].partition(":")
        if colon and name.strip() not in RESOLVERS:
            return name.strip() or "?"
        text = f"{text[: match.start()]}_{text[match.end() :]}"
    return "?" if "${" in text else ""


def read_document(path: Path) -> dict[str, Any]:
    """A saved config, .json or .yaml, of at most 1 MB. Raises ConfigError naming the file."""
    text = read_text(path, MAX_DOCUMENT_BYTES)
    try:
        if path.suffix == ".json":
            document = json.loads(text)
        else:
            parse_checked(text, str(path))
            document = yaml.load(text, Loader=_Loader)
    except (ValueError, RecursionError) as error:
        raise ConfigError.of("CONFIG-FILE", f"{path} is not a saved config", cause=str(error)) from error
    _refuse_unusual(document, str(path))
    if not isinstance(document, dict):
        raise ConfigError.of("CONFIG-FILE", f"{path} is not a saved config", cause="it is not a mapping of keys")
    return document


def line_of(path: Path, keys: tuple[str, ...]) -> int | None:
    """The line, from 1, where a nested key stands in a YAML file. Leading keys may come from its package."""
    try:
        root = yaml.compose(path.read_text(), Loader=_Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    for start in range(len(keys)):
        node, line = root, None
        for key in keys[start:]:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            name, node = next((pair for pair in pairs if pair[0].value == key), (None, None))
            if name is None:
                break
            line = name.start_mark.line + 1
        else:
            return line
    return None


def _refuse_duplicates(root: yaml.Node | None, name: str) -> None:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise _refused(name, key, "a list or mapping as a key", "use a plain word")
                if key.value in seen:
                    raise _refused(name, key, f"the key {key.value} twice", "keep one of them")
                seen.add(key.value)
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _refuse_unusual(document: Any, name: str) -> None:
    """Holds a tree that came from JSON to the limits of YAML: number of values, depth."""
    waiting, count = [(document, 0)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            limits = f"at most {MAX_NODES} values, {MAX_DEPTH} levels deep"
            raise ConfigError.of("CONFIG-FILE", f"{name} is not a saved config", cause=f"it must have {limits}")
        below = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        waiting += [(item, depth + 1) for item in below]


def _check_defaults(path: Path, node: yaml.Node) -> None:
    """A defaults list holds names, and pairs group: choice."""
    fix = "write it like: defaults: [_self_, override /model: cnn]"
    if not isinstance(node, yaml.SequenceNode):
        raise _refused(path, node, "a defaults list that is no list", fix)
    for item in node.value:
        is_pair = isinstance(item, yaml.MappingNode) and len(item.value) == 1
        is_name = isinstance(item, yaml.ScalarNode) and item.tag == "tag:yaml.org,2002:str"
        if not (is_pair or is_name):
            raise _refused(path, item, "a defaults list with more than names and group: choice", fix)


def _refused(name: Path | str, where: Any, what: str, fix: str) -> ConfigError:
    line = where.start_mark.line + 1
    return ConfigError(Problem("CONFIG-FILE", f"{name} has {what}", f"line {line}", fix))
