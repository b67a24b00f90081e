"""What a pretrained model brings: `init_from=<Hugging Face folder>` takes the model's settings from its config.json.

A folder may come from a stranger: its config.json is small, every value that is used is checked, and whatever would
change what the model computes is either understood or refused. Its weights: `interop/hugging_face.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtrain.config.run import RunConfig
from bigtrain.config.strict import Origin, SettingsTree
from bigtrain.errors import CheckpointError, ConfigError, Problem
from bigtrain.interop.config import FAMILIES, REQUIRED, Family, shown
from bigtrain.registry import MODELS

_CONFIG_FILE = "config.json"
_THEIR_FILES = (_CONFIG_FILE, "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_OTHER_TOKENIZER_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.json.gz")
_ROWS = "num_embeddings"  # the setting that a folder need not decide: rows can be added
_MAX_BYTES = 1 << 20
_LARGEST = 1 << 20  # of any width, count or length
_LARGEST_NUMBER = 1e30


@dataclass(frozen=True)
class Architecture:
    """What a config.json describes: its family, and the settings of our model that it takes."""

    family: Family
    settings: dict[str, Any]
    path: Path


def recognises(where: str) -> bool:
    """Whether `init_from` names a Hugging Face folder: one of their files is there, and none of a checkpoint's own."""
    try:
        path = Path(where).expanduser()
        ours = any((path / name).exists() for name in ("manifest.json", "state.json"))
        return not ours and any((path / name).exists() for name in _THEIR_FILES)
    except (OSError, ValueError, RuntimeError):  # a name too long, a NUL, no such home
        return False


def tokenizer_file(folder: Path) -> Path | None:
    """The tokenizer that a folder brings."""
    return next((folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()), None)


def unread_tokenizer(folder: Path) -> tuple[str, str]:
    """Of a folder without a tokenizer that bigtrain reads: what it has instead, and how it comes to have one."""
    name = next((name for name in _OTHER_TOKENIZER_FILES if (folder / name).is_file()), None)
    if name is None:
        return f"{folder} has neither {' nor '.join(_TOKENIZER_FILES)}", "get the tokenizer.json that belongs to it"
    saved = "transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    return f"{folder} has {name}, which bigtrain does not read", f"let {saved} write a tokenizer.json"


def adopt(tree: SettingsTree, config: RunConfig, choice: str, parts: Mapping[str, str]) -> None:
    """Puts the settings of the folder that `init_from` names into the tree; those it says nothing of stay.

    Its rows of embeddings are taken where its tokens are, which may be fewer; the user may ask for more of them.
    `choice` is what was chosen with model=, `parts` choice → registered model. Raises CheckpointError where the folder
    holds another kind of model, and ConfigError for settings that were typed and differ from the folder's.
    """
    architecture = read_architecture(Path(str(config.init_from)).expanduser())
    family = architecture.family
    fitting = [name for name, part in parts.items() if part == family.part and FAMILIES.get(name, family) is family]
    if MODELS.entry_of(config.model).name != family.part or FAMILIES.get(choice, family) is not family:
        raise CheckpointError.of(
            "PRETRAINED-MODEL",
            f"init_from holds a {family.title}, which model={choice} is not",
            cause=str(architecture.path),
            fix=f"choose {' or '.join(f'model={name}' for name in fitting)}",
        )
    settings = dict(architecture.settings)
    rows, asked = settings[_ROWS], getattr(config.model, _ROWS)
    if tokenizer_file(architecture.path.parent) is None or (asked is not None and asked >= (rows or 0)):
        settings[_ROWS] = asked
    contradictions = [
        Problem(
            "CONFIG-COMBINATION",
            f"model.{key} is {shown(getattr(config.model, key))}, but the weights of init_from have {shown(value)}",
            cause=tree.cause_of(f"model.{key}"),
            fix=f"leave model.{key} out: it comes with the weights",
        )
        for key, value in settings.items()
        if f"model.{key}" in tree.typed and getattr(config.model, key) != value
    ]
    if contradictions:
        raise ConfigError(*contradictions)
    tree.assign({"model": settings}, Origin(file=str(architecture.path)))


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a folder. Raises CheckpointError for one that bigtrain does not have, and for nonsense."""
    path = folder / _CONFIG_FILE
    document = read_json(path, _MAX_BYTES)
    model_type = document.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise CheckpointError.of(
            "PRETRAINED-MODEL",
            f"{path} has model_type {shown(model_type)}, which bigtrain does not read",
            fix=f"it reads {', '.join(sorted(FAMILIES))}",
        )
    family = FAMILIES[model_type]
    settings = dict(family.fixed)
    document, problems = _rope(document)
    problems += _read(family, document, settings)
    if problems:
        raise CheckpointError.of(
            "PRETRAINED-CONFIG",
            f"{path} describes a {family.title} that bigtrain can't be: {'; '.join(problems[:4])}",
            fix=f"choose a {family.title} that is not so; if the file was changed, get it as it was published",
        )
    _refuse_more_than_the_files_hold(path, settings)
    return Architecture(family, settings, path)


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes. Raises CheckpointError naming the file."""
    try:
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path.name}")
        with path.open("rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"it is over {limit:,} bytes")
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("it is not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError.of(
            "PRETRAINED-CONFIG",
            f"{path} can't be used: {error}",
            fix="get the file that belongs to the weights beside it",
        ) from error
    return document


def _read(family: Family, document: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Fills in the settings; yields what is wrong."""
    for key in family.keys:
        value = document.get(key.theirs, key.default)
        if value is REQUIRED:
            yield f"{key.theirs} is missing"
        elif value is None and key.default is None:
            settings[key.ours] = None
        elif wanted := _wanted(value, key.kind):
            yield f"{key.theirs} is {shown(value)}; it must be {wanted}"
        else:
            settings[key.ours] = key.kind[value] if isinstance(key.kind, dict) else key.kind(value)
    for name, value in family.demanded.items():
        if name in document and (type(document[name]) is not type(value) or document[name] != value):
            yield f"{name} is {shown(document[name])}; it must be {shown(value)}"
    if "quantization_config" in document:
        yield "its weights are quantised"
    if {"hidden_size", "num_heads"} <= settings.keys():
        yield from _complete(family, document, settings)


def _complete(family: Family, document: dict[str, Any], settings: dict[str, Any]) -> Iterator[str]:
    """Writes out what the file leaves to be worked out of the sizes; yields what contradicts them."""
    hidden_size, num_heads = settings["hidden_size"], settings["num_heads"]
    if settings.get("feedforward_size", 0) is None:  # GPT-2's
        settings["feedforward_size"] = 4 * hidden_size
    if "num_kv_heads" not in family.fixed and settings.get("num_kv_heads", 0) is None:  # Llama's
        settings["num_kv_heads"] = num_heads
    head_dim = document.get("head_dim")
    if head_dim is not None and (hidden_size % num_heads or head_dim != hidden_size // num_heads):
        yield f"head_dim is {shown(head_dim)}; it must be {hidden_size} / {num_heads}"


def _rope(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`rope_theta` at the top, from wherever a version of theirs put it; and a sentence for a RoPE that is scaled."""
    problems = []
    for name in ("rope_parameters", "rope_scaling"):
        value = document.get(name)
        if value is None:
            continue
        kinds = [value.get(key, "default") for key in ("rope_type", "type")] if isinstance(value, dict) else []
        if kinds != ["default", "default"] or not value.keys() <= {"rope_theta", "rope_type", "type"}:
            problems.append(f"{name} scales the positions, which bigtrain does not")
        elif "rope_theta" in value:
            document = document | {"rope_theta": value["rope_theta"]}
    return document, problems


def _refuse_more_than_the_files_hold(path: Path, settings: dict[str, Any]) -> None:
    """A file of 100 bytes can describe a model of a terabyte: believed only as far as weights lie beside it."""
    hidden, inner = settings["hidden_size"], settings["feedforward_size"]
    described = settings["num_layers"] * hidden * (2 * hidden + 2 * inner) + (settings[_ROWS] or 0) * hidden
    held = sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))
    if described > held:  # a byte each, at the least
        raise CheckpointError.of(
            "PRETRAINED-CONFIG",
            f"{path} describes {described:,} weights or more, but the .safetensors files there have {held:,} bytes",
            cause="" if held else only_pickles(path.parent),
            fix=missing_weights_fix(path.parent),
        )


def only_pickles(folder: Path) -> str:
    """Why a folder without safetensors can't be used."""
    if not (pickles := _pickles(folder)):
        return "there are none"
    return f"there is {pickles[0]}, a pickle, which can run code when it is read: bigtrain never does"


def missing_weights_fix(folder: Path) -> str:
    """How a folder without (all) its safetensors comes to have them: some were published as pickles alone."""
    if list(folder.glob("*.safetensors")) or not _pickles(folder):
        return "get the whole folder, with its model.safetensors"
    return "if you trust it, load it with transformers: its model.save_pretrained(folder) writes a model.safetensors"


def _pickles(folder: Path) -> list[str]:
    return sorted(file.name for pattern in ("*.bin", "*.pt", "*.ckpt") for file in folder.glob(pattern))


def _wanted(value: Any, kind: type | dict[str, Any]) -> str:
    """What a value should have been; an empty text where it is."""
    if isinstance(kind, dict):
        return "" if isinstance(value, str) and value in kind else " or ".join(kind)
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    numbers = (int, float) if kind is float else (int,)
    right = isinstance(value, numbers) and not isinstance(value, bool)
    if kind is float:
        return "" if right and 0 < value < _LARGEST_NUMBER else "a number above 0"
    return "" if right and 1 <= value <= _LARGEST else f"a whole number from 1 to {_LARGEST:,}"
