"""An override of `-m` that names several values → those values, as typed."""

from __future__ import annotations

import itertools
import re

from bigtrain.config.hydra_adapter import Glob, HydraException, Override, quote, swept_texts
from bigtrain.config.library import Library
from bigtrain.config.overrides import fields_named
from bigtrain.errors import ConfigError

MAX_JOBS = 1000

_READ_OTHERWISE = re.compile(r"^['\"]|^null$|\$\{|^(choice|glob)\(")  # as a path in an override
_PLAIN_LIST = re.compile(r"(?:choice\()?([^\[\]{}()'\"\\]*)\)?")


def picked(override: Override, library: Library) -> list[str]:
    """The choices that a glob means."""
    group, glob = override.key_or_group, override.value()
    assert isinstance(glob, Glob)
    cause = f'command line, "{override.input_line}"'
    if not library.has_group(group):
        fix = f"list the values: {group}=a,b"
        raise ConfigError.of("CONFIG-SWEEP", f"{group} has no choices that glob() could pick", cause=cause, fix=fix)
    picked: list[str] = sorted(glob.filter(library.choices(group)))
    if not picked:
        fix = f"choices: {', '.join(library.choices(group))}"
        raise ConfigError.of("CONFIG-SWEEP", f"no choice of {group} is like that", cause=cause, fix=fix)
    return picked


def values_of(override: Override) -> list[str]:
    """The values: as typed (1e-3, not 0.001) where commas alone part them, else as Hydra writes them."""
    cause = f'command line, "{override.input_line}"'
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1))
    except (HydraException, ValueError) as error:  # range(1,2,0)
        fix = "for instance range(1,4), range(0,1,0.25)"
        raise ConfigError.of("CONFIG-SWEEP", f"{override.key_or_group}: {error}", cause=cause, fix=fix) from error
    if texts := _as_they_stand(override):
        values = texts
    typed = _PLAIN_LIST.fullmatch(str(override.input_line).partition("=")[2])
    if typed and len(typed[1].split(",")) == len(values) and override.is_choice_sweep():
        values = [value.strip() for value in typed[1].split(",")]
    repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated or not values:
        message = f"{override.key_or_group} has {f'{repeated[0]} twice' if repeated else 'no value'}"
        raise ConfigError.of("CONFIG-SWEEP", message, cause=cause, fix="give each value once")
    return values


def _as_they_stand(override: Override) -> list[str]:
    """The values of a text that is taken as it stands, without the quotes that parted them; [] for other settings.

    A path that would be read in another way keeps its quotes.
    """
    fields = [field.metadata for field, _ in fields_named("train", override.key_or_group)]
    verbatim, path = (any(limits.get(kind) for limits in fields) for kind in ("verbatim", "path"))
    texts = swept_texts(override) if verbatim or path else []  # numbers are written as they were typed
    return [quote(text) if path and _READ_OTHERWISE.search(text) else text for text in texts]
