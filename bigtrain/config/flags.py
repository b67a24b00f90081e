"""Words that begin with dashes and are no flags: settings, as argparse scripts take them (--lr 0.1), or slips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bigtrain.config.compose import compose, validate
from bigtrain.config.habits import NAMES, plain
from bigtrain.config.library import Request
from bigtrain.errors import BigtrainError, ConfigError, Problem, nearest

_LIKELY = 0.75  # so alike are a slip and the flag that was meant


def refuse_dashes(verb: str, words: Sequence[str], flags: Sequence[str]) -> None:
    """Raises ConfigError for words with dashes that are none of the flags, each with what to type instead."""
    found = list(_settings(words, flags))
    rest = tuple(word for word in words if "=" in word and word[0] != "-")
    problems = [
        Problem(
            "CONFIG-FLAG",
            f"{shown.partition('=')[0].partition(' ')[0]} is not a flag",
            f'command line, "{shown}"',
            _fix(verb, rest, shown, setting, flags),
        )
        for shown, setting in found
    ]
    if problems:
        raise ConfigError(*problems)


def _settings(words: Sequence[str], flags: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(as typed, as key=value) of each word with dashes that is no flag."""
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        is_long = name.startswith("--") and name not in flags
        is_short = len(name) > 2 and name[0] == "-" and name[:2] not in flags  # -lr; -pmodel is -p model
        if not (is_long or is_short):
            continue
        after = words[index + 1] if index + 1 < len(words) else "-"
        shown = word
        if not equals and after[:1] != "-" and "=" not in after:
            shown, value = f"{word} {after}", after
        yield shown, f"{name.lstrip('-').replace('-', '_')}={value or 'true'}"


def _fix(verb: str, rest: tuple[str, ...], shown: str, setting: str, flags: Sequence[str]) -> str:
    flag = shown.partition("=")[0].partition(" ")[0]
    likely = nearest(flag, [known for known in flags if known[:2] == "--" and len(known) > 2], 1, _LIKELY)
    if likely and plain(flag) not in NAMES:
        return f"did you mean {likely[0]} ?"
    try:
        validate(compose(Request(verb, (*rest, setting))))
    except BigtrainError as error:
        fix = next((problem.fix for problem in error.problems if problem.word == setting), setting)
        sure = "the settings there are" not in fix and "--help lists" not in fix
        return f"settings have no dashes; {fix}" if sure else "bigtrain --help lists the flags and the settings"
    return f"settings have no dashes; did you mean {setting} ?"
