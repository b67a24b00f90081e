"""Did you mean …: which right keys, choices and overrides are near to a wrong one.

A `Guess` holds the overrides that may have been meant; `settled` shows those of them that would be accepted. The names
that other projects use are in habits.py, well-known data in known_data.py.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bigtrain.config.durations import with_unit
from bigtrain.config.habits import CHOICES, NAMES, UNITS, plain
from bigtrain.config.known_data import FILE_KINDS, PARTNERS, PARTNERS_OF_FILES
from bigtrain.config.redact import redact_overrides
from bigtrain.config.schema import field_types, is_group, leaves, named_group, node_type, without_none
from bigtrain.config.verbs import VERBS
from bigtrain.errors import Problem, nearest
from bigtrain.registry import REGISTRIES

Words = tuple[str, ...]
_SHOWN = 3  # guesses
_LOOKED_AT_FILES = 1_000
_ALIKE, _VERY_ALIKE = 0.6, 0.8
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_NAMES_OF_PARTS = ("name", "type", "kind", "class", "cls")


@dataclasses.dataclass(frozen=True)
class Guess(Problem):
    """A problem with an override, and what may have been meant: rounds of guesses, the most probable first; a guess is
    one override or several. The fix holds `before` and `after` in any case, `otherwise` where no guess composes.
    """

    rounds: tuple[tuple[Words, ...], ...] = ()
    before: str = ""
    otherwise: str = ""
    after: str = ""


def settled(problem: Problem, composes: Callable[[Words], bool]) -> Problem:
    """The problem with a fix made of what was guessed: of the first round in which any overrides are accepted."""
    if not isinstance(problem, Guess):
        return problem
    fitting = (filter(lambda words: _fits(words, composes), each) for each in problem.rounds)
    good = next(filter(None, (list(itertools.islice(each, _SHOWN)) for each in fitting)), [])
    guess = did_you_mean([" ".join(map(_without_secret, words)) for words in good])
    fix = "; ".join(filter(None, (problem.before, guess or problem.otherwise)))
    fix = f"{fix} ({problem.after})" if fix and problem.after else fix or problem.after
    return Problem(problem.code, problem.message, problem.cause, fix, problem.word, key=problem.key)


def _without_secret(word: str) -> str:
    return word if redact_overrides([word]) == (word,) else word.partition("=")[0]


def _fits(words: Words, composes: Callable[[Words], bool]) -> bool:
    """Whether the overrides are accepted; keys without a value (of a file, or after ~) can't be tried and count."""
    return not any("=" in word for word in words) or composes(words)


def known_keys(node: DictConfig, path: str = "") -> Iterator[str]:
    """Every dotted key of a typed tree, groups of settings included."""
    for key, hint in field_types(node_type(node)).items():
        yield path + key
        if is_group(hint) and not OmegaConf.is_missing(node, key):
            yield from known_keys(node[key], f"{path}{key}.")
        for name in node[key] if named_group(hint) else ():
            yield f"{path}{key}.{name}"
            yield from known_keys(node[key][name], f"{path}{key}.{name}.")


def rounds_for(key: str, known: Iterable[str], value: str | None = None) -> tuple[tuple[Words, ...], ...]:
    """Guesses for an unknown key: rounds of `key=value` with the typed `value`, or of keys where it is None.

    Keys of the same name in another group come first, then those that other projects call so; only without either of
    them those of a similar spelling.
    """
    known = list(dict.fromkeys(known))
    parent, _, last = key.rpartition(".")
    groups = {name.rpartition(".")[0] for name in known}
    single = [name for name in known if name not in groups] if "." in key else known  # a dotted key meant one setting
    same = [name for name in known if plain(name.rpartition(".")[2]) == plain(last)]
    if last in _NAMES_OF_PARTS and parent in known:  # optimizer.name=adamw
        same = [parent]
    habit = NAMES.get(plain(last))
    ours = [name for end in habit.keys for name in known if f".{name}".endswith(f".{end}")] if habit else []
    rounds = [_assigned(same, value), _assigned(ours, habit.value(value) if habit and value is not None else value)]
    if habit and value is not None and habit.value(value) is None:
        rounds.pop()
    if not (same or habit):
        siblings = {name.rpartition(".")[2]: name for name in single if name.rpartition(".")[0] == parent}
        anywhere = {name.rpartition(".")[2]: name for name in reversed(single)}
        looks_like = (
            [siblings[name] for name in resembling(last, siblings)],
            [] if siblings else resembling(key, single),
            [anywhere[name] for name in resembling(last, anywhere)],
        )
        rounds = [_assigned(names, value) for names in looks_like]
    return tuple(each for each in rounds if each)


def _assigned(names: Iterable[str], value: str | None) -> tuple[Words, ...]:
    if value is None:
        return tuple((name,) for name in dict.fromkeys(names))
    words: list[Words] = [(f"{name}={value}",) for name in dict.fromkeys(names)]
    for group in [name for name in names if name in REGISTRIES]:  # other ways to write a choice, and other names of it
        words += [(f"{group}={value.lower()}",)]
        words += [tuple(other.split(" ")) for other in [CHOICES.get(group, {}).get(plain(value))] if other]
        if group == "data":
            words += of_file(value) or [(f"data={value.lower()}", partner) for partner in PARTNERS.values()]
    return tuple(dict.fromkeys(words))


def of_file(place: str) -> list[Words]:
    """Guesses for a path that was given as the name of data (data=texts/a.csv)."""
    path = Path(place).expanduser()
    if not ("/" in place or path.suffix) or not path.exists():
        return []
    files = itertools.islice(path.rglob("*.*"), _LOOKED_AT_FILES) if path.is_dir() else [path]
    kinds = {FILE_KINDS[suffix] for file in files if (suffix := file.suffix.lower()) in FILE_KINDS}
    kind = next((name for name in PARTNERS_OF_FILES if name in kinds), "text_corpus")
    if kind == "image_folder" and not path.is_dir():
        return []
    if path.is_dir() and kind in PARTNERS_OF_FILES:
        return [(f"data={kind}", f"data.path={place}", *also) for also in ((), (PARTNERS_OF_FILES[kind],))]
    words = [(f"data={name}", f"data.path={place}") for name in dict.fromkeys((kind, "text_corpus"))]
    return [*words, *((*each, partner) for each in words for partner in ("task=classification", "model=cnn"))]


def rounds_for_value(key: str, value: str, hint: Any = None, field: Any = None) -> tuple[tuple[Words, ...], ...]:
    """Guesses for a value of the wrong type or out of range: a number in another notation, a list without brackets, a
    choice under another name. `field`: of the setting, where it is known.
    """
    guesses: list[list[str]] = []
    if (habit := NAMES.get(plain(key.rpartition(".")[2]))) and (ours := habit.value(value)):
        guesses.append([ours])
    limits = field.metadata if field is not None else {}
    names = getattr(without_none(hint), "__members__", None) or limits.get("choices") or ()
    choices = {plain(name): name for name in names}
    guesses.append([choices[name] for name in nearest(plain(value), choices, limit=1)])
    durations = _durations(value.replace(",", "."), kind) if (kind := limits.get("duration")) else []
    guesses.append(durations)
    if 1 in (limits.get("at_most"), limits.get("below")) and _NUMBER.fullmatch(value) and 1 < float(value) < 100:
        guesses.append([f"{float(value) / 100:g}"])  # 10, where a tenth is meant
    if re.fullmatch(r"[1-9]\d{0,2}([,_ ]\d{3})+", value):  # 1,000
        guesses.append([re.sub("[,_ ]", "", value)])
    elif _NUMBER.fullmatch(value):  # 1e3, 32.0
        guesses.append([str(int(float(value)))] if float(value).is_integer() else [])
    elif _NUMBER.fullmatch(value.replace(",", ".", 1)):  # 0,001
        guesses.append([value.replace(",", ".", 1)])
    guesses.append([f"[{value}]"])
    kept = ([guess for guess in each if guess != value] for each in guesses)
    rounds: list[tuple[Words, ...]] = [tuple((f"{key}={guess}",) for guess in each) for each in kept if each]
    if durations and kind == "whole":  # most schedules need a length in steps, so that a time can't be the whole
        time = durations[0]
        rounds.append(((f"{key}={time}", "scheduler=constant"), (f"trainer.time_limit={time}",)))
    return tuple(rounds)


def _durations(value: str, kind: str) -> list[str]:
    """Guesses for a number without a unit of duration, or with another name of one. `kind`: see `setting`."""
    if clock := re.fullmatch(r"(\d+)[h:](\d+)(?::\d+|m|min)?", value):  # 1h30m, 1:30:00
        return [f"{60 * int(clock[1]) + int(clock[2])}min"]
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)?\s*([a-zA-Z]*)", value)
    if match is None:
        return []
    number, unit = match[1] or "1", match[2]
    if unit in ("k", "K", "M", "B"):
        return [f"{number}{unit.replace('K', 'k')}{of}" for of in ("step", "tok", "sample")]
    if unit.lower() in ("d", "day", "days"):
        return [f"{24 * float(number):g}h"]
    if unit:
        return [f"{number}{UNITS.get(unit.lower(), unit.lower())}"]
    meant = (with_unit(number, kind), f"{number}epoch", f"{number}min")
    return [guess for guess in dict.fromkeys(meant) if guess]


def ours_for(key: str) -> list[str]:
    """Dotted keys of any part that other projects call so, whether or not this run has the part."""
    habit = NAMES.get(plain(key.rpartition(".")[2]))
    return [
        f"{kind}.{name}"
        for name in (habit.keys if habit else ())
        for kind, registry in REGISTRIES.items()
        if any(name in field_types(entry.config_class) for entry in registry)
    ]


def resembling(name: str, names: Iterable[str], limit: int = 2) -> list[str]:
    """Names of similar spelling, best first: similar as a whole, and each part between _ or . like one of theirs."""

    def part_by_part(other: str) -> bool:
        parts = [part for part in other.replace(".", "_").split("_") if part]
        return all(
            any(_likeness(part, theirs) >= _ALIKE for theirs in parts)
            for part in name.replace(".", "_").split("_")
            if part
        )

    found = nearest(name, names, limit=2 * limit)
    return [other for other in found if _likeness(plain(name), plain(other)) >= _VERY_ALIKE or part_by_part(other)][
        :limit
    ]


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def field_of(key: str, root: DictConfig) -> tuple[dataclasses.Field, Any] | None:
    """The field of a setting in a typed tree, and its type; None for a key that is no setting."""
    node: Any = root
    *above, last = key.split(".")
    for part in above:
        if not is_group(field_types(node_type(node)).get(part)):
            return None
        node = node[part]
    types = field_types(node_type(node)) if dataclasses.is_dataclass(node_type(node)) else {}
    if last not in types or is_group(types[last]):
        return None
    return next(field for field in dataclasses.fields(node_type(node)) if field.name == last), types[last]


def meaning(key: str, root: DictConfig) -> str:
    """What a setting is for, as --help says it: "trainer.gpus=…: GPUs to use …"; an empty text for a group."""
    found = field_of(key, root)
    return f"{key}=…: {found[0].metadata['help']}" if found and found[0].metadata.get("help") else ""


def otherwise(key: str, rounds: Sequence[Sequence[Words]], root: DictConfig) -> str:
    """The fix where no guess composes: the sentence for what others call so, or the meaning of the nearest setting."""
    last = key.rpartition(".")[2]
    habit = NAMES.get(plain(last))
    if habit and habit.say:
        return habit.say
    if not rounds:
        return ""
    (first, *_), *_ = rounds[0]
    name = first.partition("=")[0]
    sure = habit is not None or _likeness(plain(last), plain(name.rpartition(".")[2])) >= _VERY_ALIKE
    return meaning(name, root) if sure else ""


def elsewhere(key: str, verb: str, root: DictConfig, choices: Any) -> str:
    """A sentence when the key exists, but for another choice or another verb; else an empty text.

    `choices(kind)` gives choice → registered part of a group.
    """
    kind, _, last = key.partition(".")
    if kind in REGISTRIES and not VERBS[verb].describes_training:
        return f"the {kind} and its settings come with the checkpoint"
    if kind in REGISTRIES and not OmegaConf.is_missing(root, kind):
        here = node_type(root[kind])
        parts = {entry.name for entry in REGISTRIES[kind] if last in field_types(entry.config_class)}
        owners = [f"{kind}={choice}" for choice, part in choices(kind).items() if part in parts]
        if owners:
            now = next((entry.name for entry in REGISTRIES[kind] if entry.config_class is here), "another")
            return f"{key} belongs to {_enumerated(owners)}; this run has {now}"
    owners = [
        name
        for name, other in VERBS.items()
        if other.settings is not VERBS[verb].settings and name == other.root and key in dict_of_leaves(other.settings)
    ]
    return f"{key} belongs to {_enumerated([f'bigtrain {other}' for other in owners])}" if owners else ""


def _enumerated(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def dict_of_leaves(tree: type) -> dict[str, Any]:
    """Dotted key → type, of the settings that every run of a verb has."""
    return {path: hint for path, _, hint in leaves(tree)}


def did_you_mean(options: list[str]) -> str:
    """ "did you mean a, b or c ?", or an empty text."""
    if not options:
        return ""
    head, tail = ", ".join(options[:-1]), options[-1]
    return f"did you mean {head} or {tail} ?" if head else f"did you mean {tail} ?"
