"""Shared by the tests of the command: compose in-process, from words or from files."""

from __future__ import annotations

from pathlib import Path

from bigtrain.config.compose import Composed, compose, validate
from bigtrain.config.library import Request
from bigtrain.errors import BigtrainError


def composed(*words: str, verb: str = "train", folder: Path | None = None) -> Composed:
    """The validated settings of a command line."""
    return validate(compose(Request(verb, words, config_dir=None if folder is None else str(folder))))


def refusal(*words: str, verb: str = "train", folder: Path | None = None) -> str:
    """The text of the error that a command line ends with."""
    try:
        composed(*words, verb=verb, folder=folder)
    except BigtrainError as error:
        return str(error)
    raise AssertionError(f"{words} was accepted")


def write(folder: Path, name: str, text: str) -> Path:
    """A YAML file in a user's folder."""
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
