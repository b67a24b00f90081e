"""Secrets never reach a disk: values that look like one are replaced before a config is saved or logged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "<redacted>"

_SECRET_PART = re.compile(r"secret|passw|passphrase|api_?key|access_?key|private_?key|credential", re.IGNORECASE)
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_URL_USER = re.compile(r"(\w+://)[^/\s@]*:[^/\s]*@|(\w+://)[^/\s@:]{16,}@")
_URL_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|secret|passw|api_?key|credential|signature)[\w.-]*=)[^&;\s]+", re.IGNORECASE
)
_ENVIRONMENT_ONLY = re.compile(r"\$\{oc\.env:\s*\w+\s*\}")


def is_secret_key(key: str) -> bool:
    """Whether a dotted key names a secret: `hf_token`, `extra.apiKey`; not `tokenizer`, `max_tokens`."""
    words = {word.lower() for word in _WORDS.findall(key)}
    return "token" in words or bool(_SECRET_PART.search(key))


def redact_text(text: str) -> str:
    """A text without the credentials in its URLs: https://user:password@host, ?token=…"""
    text = _URL_USER.sub(lambda match: f"{match[1] or match[2]}{HIDDEN}@", text)
    return _URL_QUERY.sub(rf"\1{HIDDEN}", text)


def redact(value: Any, key: str = "") -> Any:
    """A plain tree of dicts, lists and values with its secrets replaced; `${oc.env:NAME}` is no secret."""
    if isinstance(value, dict):
        return {name: redact(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [redact(item, key) for item in value]
    if is_secret_key(key) and value not in (None, "") and not _ENVIRONMENT_ONLY.fullmatch(str(value)):
        return HIDDEN
    return redact_text(value) if isinstance(value, str) else value


def redact_overrides(words: Iterable[str]) -> tuple[str, ...]:
    """What was typed, `key=value` by `key=value`, without secrets."""
    redacted = []
    for word in words:
        key, equals, value = word.partition("=")
        hidden = redact(value, key)
        if isinstance(value, str) and value.startswith("{") and _mentions_secret(value):
            hidden = HIDDEN
        redacted.append(f"{key}{equals}{hidden}")
    return tuple(redacted)


def _mentions_secret(text: str) -> bool:
    return any(is_secret_key(name) for name in re.findall(r"[\w.]+(?=\s*:)", text))
